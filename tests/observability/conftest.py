"""A bank of real processes in production's profile, whose traces go to a sink; and Debian's Prometheus, with a bank that it scrapes."""

import itertools
import json
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from bank.processes import spawn, terminate
from tests.faults.conftest import open_accounts
from tests.observability.sink import Sink
from tests.processes import HOST, ROOT, Bank, Client, free_port, fresh_database, wait_until
from tests.proof.conftest import SEED

SEAL_KEY = secrets.token_hex(32)
METRICS_TOKEN = secrets.token_hex(32)
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
            "BANK_METRICS_TOKEN": METRICS_TOKEN,
            "BANK_PUBLIC_DOCS": "true",
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


TOOLS = ROOT / ".tools" / "usr" / "bin"
needs_prometheus = pytest.mark.skipif(not (TOOLS / "promtool").exists(), reason="no Prometheus: .ci/tools gets it")


class Prometheus:
    """A Prometheus that scrapes one target each second; asks it expressions."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples an expression has now. Raises HTTPError for one that is no PromQL."""
        with urlopen(f"http://{HOST}:{self._port}/api/v1/query?{urlencode({'query': expression})}", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    def ready(self) -> bool:
        """Whether it has scraped the bank."""
        try:
            return bool(self.ask("up == 1"))
        except OSError:
            return False


@pytest.fixture(scope="module")
def running_bank(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """A bank with a follower, in which money moved and was refused."""
    directory = tmp_path_factory.mktemp("observed")
    with fresh_database({**environ, "BANK_SEAL_KEY": SEED}, directory) as own, Bank(own, directory, workers=1) as bank:
        bank.add("follower", "-m", "bank", "follow")
        yield bank


@pytest.fixture(scope="module")
def prometheus(running_bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that scraped the bank before, while and after money moved."""
    directory: Path = tmp_path_factory.mktemp("prometheus")
    settings = directory / "prometheus.yml"
    target = f"{HOST}:{running_bank.port}"
    settings.write_text(
        f"global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: api, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    port = free_port()
    arguments = [f"--config.file={settings}", f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={HOST}:{port}"]
    child = spawn([str(TOOLS / "prometheus"), *arguments], env={}, log=directory / "prometheus.log", cwd=directory)
    try:
        found = Prometheus(port)
        wait_until(found.ready, "Prometheus scrapes the bank", 60)
        _move_money(running_bank)
        yield found
    finally:
        terminate(child, (signal.SIGTERM, 5.0))


def _move_money(bank: Bank) -> None:
    token = bank.log_in()
    source, target = open_accounts(bank, token, 2, 5)
    client = bank.client(token)
    parties = {"from_account_id": source.account_id, "to_account_id": target.account_id, "currency": "USD"}
    # A rate needs two scrapes of a series; most are refused, since the account has five dollars.
    until = time.monotonic() + 6
    for number in itertools.takewhile(lambda _: time.monotonic() < until, itertools.count()):
        answer = client.post("/transactions/transfer", {**parties, "amount": "1.00"}, key=f"moved-{number}", Prefer="wait=5")
        assert answer.status < 500, answer.body
        assert client.get(f"/accounts/{source.account_id}").status == 200
    client.close()
