"""A bank of real processes in production's profile, whose traces go to a sink: one for all tests of logs and traces."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.observability.sink import Sink
from tests.processes import Bank, Client, fresh_database, wait_until

SEAL_KEY = secrets.token_hex(32)
TRACE, SPAN = secrets.token_hex(16), secrets.token_hex(8)


@dataclass
class Watched:
    """A running bank, where its traces go, and an administrator with two accounts that have money."""

    bank: Bank
    sink: Sink
    client: Client
    accounts: list[str]

    def transfer(self, request_id: str, **headers: str) -> Any:
        """Make a transfer and wait until it is posted."""
        source, target = self.accounts
        body = {"from_account_id": source, "to_account_id": target, "amount": "1.00", "currency": "USD"}
        answer = self.client.post("/transactions/transfer", body, **{"Prefer": "wait=20", "X-Request-ID": request_id, **headers})
        assert answer.status == 201, answer.body
        return answer.json

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What a process has logged. Fails where a line is not JSON."""
        return [json.loads(line) for line in (self.bank.directory / f"{name}.log").read_text().splitlines()]


@pytest.fixture(scope="package")
def watched(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory: Path = tmp_path_factory.mktemp("watched")
    with Sink() as sink, fresh_database(environ, directory) as own:
        told = {
            **own,
            "BANK_ENV": "production",
            "RATELIMIT_ENABLED": "true",
            "BANK_SELF_SERVICE_DEPOSITS": "false",
            "BANK_LOG_LEVEL": "INFO",
            "BANK_SEAL_KEY": SEAL_KEY,
            "BANK_TRACES_URL": sink.url,
            "BANK_TRACES_PERCENT": "0",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with Bank(told, directory, web_workers=1, workers=1) as bank:
            client = bank.client(bank.log_in())
            accounts = [client.post("/accounts", {"currency": "USD"}).json["id"] for _ in range(2)]
            for account in accounts:
                body = {"account_id": account, "amount": "1000", "currency": "USD"}
                assert client.post("/transactions/credit", body, Prefer="wait=20").status == 201
            yield Watched(bank, sink, client, accounts)
            client.close()


@pytest.fixture(scope="package")
def transferred(watched: Watched) -> tuple[Watched, str]:
    """A transfer with a trace that its client wants to be kept, once all of it has arrived; and its id."""
    transaction: str = watched.transfer("order-4711", traceparent=f"00-{TRACE}-{SPAN}-01")["id"]
    wait_until(lambda: "drain" in watched.sink.of(TRACE) and "enqueue" in watched.sink.of(TRACE), "the trace arrives")
    wait_until(lambda: "POST /api/v1/transactions/transfer" in watched.sink.of(TRACE), "the request's span arrives")
    return watched, transaction
