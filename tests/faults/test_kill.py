"""Workers die by SIGKILL and Redis forgets everything, in the middle of accepted transfers: each is final, once."""

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from tests.faults.conftest import Customer, broken_books, open_accounts
from tests.processes import Bank, fresh_database, query, wait_until

TRANSFERS = 5_000
CLIENTS = 8


@pytest.fixture
def bank(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Bank]:
    """A bank with two workers on a database of its own, which posts little by little."""
    # Small batches, so that there are many middles to be killed in.
    slow = {**environ, "BANK_BATCH_SIZE": "20"}
    with fresh_database(slow, tmp_path) as own, Bank(own, tmp_path, workers=2) as bank:
        yield bank


def accept(bank: Bank, token: str, customers: list[Customer], numbers: range) -> list[str]:
    """POST a transfer of one dollar for each number; the ids of those that were accepted."""
    client, draw, accepted = bank.client(token), random.Random(numbers.start), []
    for number in numbers:
        source, target = draw.sample(customers, 2)
        body = {
            "from_account_id": source.account_id,
            "to_account_id": target.account_id,
            "amount": "1.00",
            "currency": "USD",
        }
        answer = client.post("/transactions/transfer", body, key=f"transfer-{number}")
        assert answer.status == 202, answer.body
        accepted.append(answer.json["id"])
    client.close()
    return accepted


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_killed_and_redis_flushed_amid_5000_transfers_leave_each_final_once(bank: Bank) -> None:
    token = bank.log_in()
    customers = open_accounts(bank, token, 20, 1_000)
    share = TRANSFERS // CLIENTS

    def posted() -> int:
        return int(query(bank.environ, "SELECT count(*) FROM transactions WHERE status <> 'pending'")[0][0])

    def pending() -> int:
        return int(query(bank.environ, "SELECT count(*) FROM transactions WHERE status = 'pending'")[0][0])

    with ThreadPoolExecutor(CLIENTS) as clients:
        shares = [range(start, start + share) for start in range(0, TRANSFERS, share)]
        running = [clients.submit(accept, bank, token, customers, numbers) for numbers in shares]
        wait_until(lambda: posted() > 200 and pending() > 0, "the workers are in the middle")
        for worker in bank.workers:
            worker.kill()
        with redis.Redis.from_url(bank.environ["REDIS_URL"]) as client:
            client.flushdb()
        accepted = [transaction_id for future in running for transaction_id in future.result()]
    assert len(set(accepted)) == TRANSFERS
    assert pending() > 0, "nothing was left for the restart"
    assert broken_books(bank.environ) == []

    # The scheduler goes on: it must notice by itself that Redis forgot its ticks.
    for worker in bank.workers:
        worker.restart()

    wait_until(lambda: pending() == 0, "every transfer is final", 90)
    rows = query(
        bank.environ,
        """SELECT t.id::text, t.status, count(e.*) FROM transactions t LEFT JOIN entries e ON e.transaction_id = t.id
            WHERE t.type = 'transfer' GROUP BY 1, 2""",
    )
    assert {row[0] for row in rows} == set(accepted)
    assert {(status, entries) for _, status, entries in rows} <= {("completed", 2), ("failed", 0)}
    assert broken_books(bank.environ) == []
