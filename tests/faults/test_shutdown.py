"""Every part ends within ten seconds of SIGTERM, and whatever was accepted is posted, once."""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.faults.conftest import Customer, broken_books, open_accounts
from tests.processes import Bank, Process, fresh_database, query, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SECONDS = 10.0
CLIENTS = 4


@pytest.fixture
def own(environ: Mapping[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    with fresh_database({**environ, "BANK_SEAL_KEY": "0123456789abcdef" * 4}, tmp_path) as own:
        yield own


def seconds_to_end(process: Process) -> float:
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    process.child.wait(3 * SECONDS)
    return time.monotonic() - began


def test_who_waits_for_an_outcome_is_answered_when_the_api_is_asked_to_stop(own: dict[str, str], tmp_path: Path) -> None:
    with Bank(own, tmp_path, workers=0, scheduler=False) as bank, ThreadPoolExecutor(1) as other:
        client = bank.client(bank.log_in())
        account_id = client.post("/accounts", {"currency": "USD"}).json["id"]
        body = {"account_id": account_id, "amount": "1.00", "currency": "USD"}
        waiting = other.submit(client.post, "/transactions/credit", body, "one", Prefer="wait=30")
        wait_until(lambda: query(own, "SELECT 1 FROM transactions"), "it is accepted")
        assert seconds_to_end(bank.web) < SECONDS
        answer = waiting.result()
        assert (answer.status, answer.json["status"]) == (202, "pending")


def transfer_until(
    stop: threading.Event, bank: Bank, token: str, customers: list[Customer], number: int
) -> tuple[dict[str, str], set[int]]:
    """POST transfers one after the other, each again with its key until it is accepted; the ids by key, and the other answers."""
    accepted: dict[str, str] = {}
    others: set[int] = set()
    client = bank.client(token)
    while not stop.is_set():
        source, target = customers[number % len(customers)], customers[(number + 1) % len(customers)]
        key = f"{number}-{len(accepted)}"
        body = {"from_account_id": source.account_id, "to_account_id": target.account_id, "amount": "0.01", "currency": "USD"}
        while key not in accepted:
            try:
                answer = client.post("/transactions/transfer", body, key)
            except (OSError, HTTPException):
                stop.wait(0.05)
                continue
            if answer.status == 202:
                accepted[key] = answer.json["id"]
            else:
                others.add(answer.status)
                stop.wait(0.05)
    client.close()
    return accepted, others


def test_every_part_is_replaced_under_load_and_nothing_is_lost_or_doubled(own: dict[str, str], tmp_path: Path) -> None:
    with Bank(own, tmp_path, workers=2, batch_worker=True, slow_worker=True) as bank, ThreadPoolExecutor(CLIENTS) as clients:
        follower = bank.add("follower", "-m", "bank", "follow")
        token = bank.log_in()
        customers = open_accounts(bank, token, CLIENTS, 100)
        stop = threading.Event()
        running = [clients.submit(transfer_until, stop, bank, token, customers, number) for number in range(CLIENTS)]
        took: dict[str, float] = {}
        try:
            for part in filter(None, [*bank.workers, bank.batch_worker, bank.slow_worker, bank.scheduler, follower, bank.web]):
                took[part.name] = seconds_to_end(part)
                part.restart()
                bank.wait_until_ready()
        finally:
            stop.set()
        results = [future.result() for future in running]
        assert {name: seconds for name, seconds in took.items() if seconds >= SECONDS} == {}
        assert set().union(*(others for _, others in results)) <= {503}
        keys = {key: made for accepted, _ in results for key, made in accepted.items()}
        assert len(keys) == len({*keys.values()}) > 50
        wait_until(lambda: not query(own, "SELECT 1 FROM transactions WHERE status = 'pending'"), "all are final", 60)
        # Also of what was tried again after a connection broke off.
        [(transfers, entries)] = query(
            own,
            """SELECT count(*), sum((SELECT count(*) FROM entries e WHERE e.transaction_id = t.id))
                 FROM transactions t WHERE type = 'transfer' AND status = 'completed'""",
        )
        assert (transfers, entries) == (len(keys), 2 * len(keys))
        assert broken_books(own) == []
