"""The follower dies by SIGKILL in the middle of sealing: the chain is whole all the same, and its effects are there once."""

import itertools
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from click.testing import CliRunner

from bank.cli.verify import command
from tests.faults.conftest import open_accounts
from tests.processes import Bank, fresh_database, python, query, wait_until
from tests.proof.conftest import SEED


@pytest.fixture
def bank(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Bank]:
    with fresh_database({**environ, "BANK_SEAL_KEY": SEED}, tmp_path) as own, Bank(own, tmp_path, workers=1) as bank:
        yield bank


def test_followers_killed_while_clients_post_leave_no_gap_and_double_nothing(bank: Bank) -> None:
    token = bank.log_in()
    source, target = open_accounts(bank, token, 2, 5)
    over = Event()

    def keep_posting(share: int) -> None:
        client = bank.client(token)
        parties = {"from_account_id": source.account_id, "to_account_id": target.account_id, "currency": "USD"}
        # Most are refused: the account has five dollars.
        for number in itertools.takewhile(lambda _: not over.is_set(), itertools.count()):
            answer = client.post("/transactions/transfer", {**parties, "amount": "1.00"}, key=f"{share}-{number}")
            assert answer.status == 202, answer.body
        client.close()

    def blocks() -> int:
        return int(query(bank.environ, "SELECT count(*) FROM blocks")[0][0])

    followers = [bank.add(f"follower-{number}", "-m", "bank", "follow") for number in (1, 2)]
    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(keep_posting, share) for share in range(4)]
        try:
            for number in range(4):
                sealed = blocks()
                wait_until(lambda sealed=sealed: blocks() > sealed, "a block is sealed")
                followers[number % 2].kill()
                followers[number % 2].restart()
        finally:
            over.set()
        for client in running:
            client.result()
    wait_until(lambda: query(bank.environ, "SELECT count(*) FROM transactions WHERE status = 'pending'") == [(0,)], "all is final")
    [(last,)] = query(bank.environ, "SELECT max(position) FROM events")
    behind = "SELECT count(*) FROM followers WHERE position < %s"
    wait_until(lambda: query(bank.environ, behind, last) == [(0,)], "all followers are at the end")

    done = CliRunner(env=bank.environ).invoke(command)
    assert done.exit_code == 0, done.output
    assert "not sealed yet" not in done.output
    failed = query(bank.environ, "SELECT stream_id FROM events WHERE type = 'TransactionFailed' ORDER BY 1")
    assert len(failed) > 100
    assert query(bank.environ, "SELECT entity_id FROM audit_logs WHERE action = 'transaction.failed' ORDER BY 1") == failed

    for follower in followers:
        follower.signal(signal.SIGTERM)
        assert follower.child.wait(10) == 0


def test_without_a_key_nothing_is_followed(environ: Mapping[str, str], tmp_path: Path) -> None:
    process = python(["-m", "bank", "follow"], {**environ, "BANK_SEAL_KEY": ""}, tmp_path / "follow.log")
    assert process.wait(30) == 1
    said = (tmp_path / "follow.log").read_text()
    assert "BANK_SEAL_KEY: is required where the log is sealed" in said and "Traceback" not in said
