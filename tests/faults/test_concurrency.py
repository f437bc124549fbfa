"""Many clients at once on few accounts: the locks hold, and nobody is told of a deadlock."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.conftest import Customer, broken_books, open_accounts
from tests.processes import Bank, fresh_database, query, wait_until

CLIENTS = 32
SECONDS = 30


@pytest.fixture
def bank(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Bank]:
    """A bank with two workers on a database of its own."""
    with fresh_database(environ, tmp_path) as own, Bank(own, tmp_path, workers=2) as bank:
        yield bank


def move_money(bank: Bank, token: str, customers: list[Customer], seed: int, until: float) -> Counter[int]:
    """Transfer, credit, debit and roll back at random until the time is over; the answers by status."""
    client, draw, answers = bank.client(token), random.Random(seed), Counter[int]()
    known: list[str] = []
    while time.monotonic() < until:
        source, target = draw.sample(customers, 2)
        amount = f"{draw.randint(1, 400)}.{draw.randint(0, 99):02d}"
        money = {"amount": amount, "currency": "USD"}
        kind = draw.choices(["transfer", "credit", "debit", "rollback"], [70, 10, 10, 10])[0]
        if kind == "rollback" and known:
            answer = client.post(f"/transactions/{draw.choice(known)}/rollback", {"reason": "at random"})
        elif kind in ("credit", "debit"):
            answer = client.post(f"/transactions/{kind}", {"account_id": source.account_id, **money})
        else:
            parties = {"from_account_id": source.account_id, "to_account_id": target.account_id}
            # Some wait for the outcome, so that the wake-up is under load too.
            wait = {"Prefer": "wait=5"} if draw.random() < 0.05 else {}
            answer = client.post("/transactions/transfer", {**parties, **money}, **wait)
        answers[answer.status] += 1
        if answer.status in (201, 202):
            known.append(answer.json["id"])
    client.close()
    return answers


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_32_clients_on_10_accounts_for_30_seconds_keep_the_books(bank: Bank) -> None:
    token = bank.log_in()
    customers = open_accounts(bank, token, 10, 1_000)
    until = time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(move_money, bank, token, customers, seed, until) for seed in range(CLIENTS)]
        answers = sum((future.result() for future in running), Counter[int]())
    # 409: a rollback of what is not final yet; 422: refused while the client waited.
    assert set(answers) <= {201, 202, 409, 422}, answers
    assert answers[202] > 1_000, answers

    def pending() -> int:
        return int(query(bank.environ, "SELECT count(*) FROM transactions WHERE status = 'pending'")[0][0])

    wait_until(lambda: pending() == 0, "everything is final", 60)
    assert broken_books(bank.environ) == []
    outcomes = Counter(dict(query(bank.environ, "SELECT status, count(*) FROM transactions GROUP BY 1")))
    assert outcomes["completed"] and outcomes["failed"] and outcomes["rolled_back"], outcomes
