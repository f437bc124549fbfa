"""Workers die by SIGKILL while holds are taken, let go and expire: each is over once, and no cent of it is lost or taken twice."""

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from bank.cli.rebuild import command
from tests.faults.conftest import Customer, broken_books, open_accounts
from tests.processes import Bank, fresh_database, query, wait_until

HOLDS = 400
CLIENTS = 4


@pytest.fixture
def bank(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Bank]:
    """A bank with two workers on a database of its own, which posts little by little."""
    slow = {**environ, "BANK_BATCH_SIZE": "10"}
    with fresh_database(slow, tmp_path) as own, Bank(own, tmp_path, workers=2) as bank:
        yield bank


def live(bank: Bank, token: str, customers: list[Customer], numbers: range) -> None:
    """For each number hold some money, and at once do several things to holds that are there."""
    client, draw = bank.client(token), random.Random(numbers.start)
    holds: list[str] = []
    for number in numbers:
        source, target = draw.sample(customers, 2)
        body = {"from_account_id": source.account_id, "to_account_id": target.account_id, "amount": "5.00", "currency": "USD", "hold": True}
        # Some are over while workers are killed, and before all that is asked of them is decided.
        if number % 3 == 0:
            body["expires_at"] = (datetime.now(UTC) + timedelta(seconds=draw.uniform(1, 4))).isoformat()
        answer = client.post("/transactions/transfer", body, key=f"hold-{number}")
        assert answer.status == 202, answer.body
        holds.append(answer.json["id"])
        for attempt in range(3):
            act = draw.choice(["capture", "capture", "void"])
            asked = {"amount": draw.choice(["1.00", "2.00", "4.00"])} if act == "capture" else {}
            answer = client.post(f"/transactions/{draw.choice(holds)}/{act}", asked, key=f"{act}-{number}-{attempt}")
            # 409: it is not held yet.
            assert answer.status in (202, 409), answer.body
    client.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_killed_amid_holds_leave_each_over_once(bank: Bank) -> None:
    token = bank.log_in()
    customers = open_accounts(bank, token, 10, 1_000)

    def count(condition: str) -> int:
        return int(query(bank.environ, f"SELECT count(*) FROM transactions WHERE {condition}")[0][0])

    share = HOLDS // CLIENTS
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(live, bank, token, customers, range(start, start + share)) for start in range(0, HOLDS, share)]
        for decided in (100, 200, 300):
            wait_until(lambda decided=decided: count("captures_id IS NOT NULL AND status <> 'pending'") > decided, "captures are decided")
            for worker in bank.workers:
                worker.kill()
            assert broken_books(bank.environ) == []
            for worker in bank.workers:
                worker.restart()
        for future in running:
            future.result()
    wait_until(lambda: count("status = 'pending'") == 0, "everything is decided", 90)
    wait_until(lambda: count("held_amount > 0 AND expires_at < now()") == 0, "what has expired is let go", 30)

    assert {row[0] for row in query(bank.environ, "SELECT DISTINCT type FROM events WHERE type LIKE 'Hold%'")} == {
        "HoldCaptured",
        "HoldVoided",
        "HoldExpired",
    }
    # Of each hold: what was taken, by its captures' entries, and let go, by its events, is what was held, less what is left.
    wrong = query(
        bank.environ,
        """SELECT h.id FROM transactions h
            WHERE h.expires_at IS NOT NULL AND h.status <> 'failed' AND h.amount <> h.held_amount
                  + (SELECT COALESCE(sum(e.amount), 0) FROM transactions c JOIN entries e ON e.transaction_id = c.id AND e.amount > 0
                      WHERE c.captures_id = h.id)
                  + (SELECT COALESCE(sum((data->>'amount')::bigint), 0) FROM events
                      WHERE stream_id = h.id AND type IN ('HoldVoided', 'HoldExpired'))""",
    )
    assert wrong == []
    ends = """SELECT stream_id FROM events WHERE type IN ('HoldVoided', 'HoldExpired')
                  OR (type = 'HoldCaptured' AND data->>'held_amount' = '0') GROUP BY 1 HAVING count(*) > 1"""
    assert query(bank.environ, ends) == []
    assert broken_books(bank.environ) == []
    checked = CliRunner(env={**bank.environ, "COLUMNS": "200"}).invoke(command, ["--check"])
    assert checked.exit_code == 0, checked.output
