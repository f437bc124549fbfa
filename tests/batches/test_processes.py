"""Batches of a whole bank of processes: ten thousand at once, a worker that is killed in the middle, what the events tell afterwards."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg2
import pytest

from bank import create_app
from bank.config import Config
from bank.db import reader
from bank.ledger.invariants import CHECKS
from tests.batches.conftest import transfer
from tests.processes import Bank, Client, fresh_database, python, query, wait_until

pytestmark = pytest.mark.slow

ITEMS = 10_000


@pytest.fixture(scope="module")
def bank(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    directory = tmp_path_factory.mktemp("bank")
    with fresh_database(environ, directory) as own, Bank(own, directory, web_workers=1, batch_worker=True) as bank:
        yield bank


@pytest.fixture(scope="module")
def client(bank: Bank) -> Client:
    return bank.client(bank.log_in())


@pytest.fixture(scope="module")
def accounts(client: Client) -> list[str]:
    """A hundred accounts with a hundred dollars each."""
    ids = [client.post("/accounts", {"currency": "USD"}).json["id"] for _ in range(100)]
    items = [{"type": "credit", "account_id": each, "amount": "100.00", "currency": "USD"} for each in ids]
    finished(client, submit(client, "atomic", items), "completed")
    return ids


def submit(client: Client, mode: str, items: list[dict]) -> str:
    answer = client.post("/transactions/batch", {"mode": mode, "transactions": items})
    assert answer.status == 202, answer.body
    return str(answer.json["id"])


def batch(client: Client, batch_id: str) -> dict:
    return dict(client.get(f"/transactions/batch/{batch_id}?limit=1").json)


def finished(client: Client, batch_id: str, status: str) -> dict:
    wait_until(lambda: batch(client, batch_id)["status"] != "pending", "the batch is posted", 60)
    found = batch(client, batch_id)
    assert found["status"] == status, found
    return found


def around(accounts: list[str], amount: str = "0.01") -> list[dict]:
    """Ten thousand transfers, each from an account to the next."""
    return [transfer(accounts[i % 100], accounts[(i + 1) % 100], amount, reference=f"{i}") for i in range(ITEMS)]


def wrong(bank: Bank) -> list[str]:
    with create_app(Config.from_env(bank.environ)).app_context(), reader() as session:
        return [check.name for check in CHECKS if check.find(session.connection(), None)]


def test_ten_thousand_each_by_itself_or_all_together(client: Client, accounts: list[str]) -> None:
    items = around(accounts)
    items[5_000]["amount"] = "1000000.00"
    found = finished(client, submit(client, "independent", items), "completed")
    assert (found["counts"]["completed"], found["counts"]["failed"]) == (ITEMS - 1, 1)
    refused = finished(client, submit(client, "atomic", items), "failed")
    assert refused["counts"]["failed"] == ITEMS
    assert (refused["failure"]["index"], refused["failure"]["code"]) == (5_000, "insufficient_funds")
    items[5_000]["amount"] = "0.01"
    assert finished(client, submit(client, "atomic", items), "completed")["counts"]["completed"] == ITEMS


def test_an_atomic_one_whose_worker_is_killed_in_the_middle_stays_whole(bank: Bank, client: Client, accounts: list[str]) -> None:
    assert bank.batch_worker is not None
    before = query(bank.environ, "SELECT sum(version) FROM balances")
    # Its worker claims all, decides, and waits in the middle of its commit for the one row that we hold.
    url = bank.environ["DATABASE_URL"].replace("postgresql+psycopg2://", "postgresql://")
    holder = psycopg2.connect(url)
    try:
        with holder.cursor() as cursor:
            cursor.execute("SELECT FROM daily_balances WHERE account_id = %s FOR UPDATE", (accounts[7],))
        batch_id = submit(client, "atomic", around(accounts))
        stuck = """SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%WITH final AS%%'
                     AND datname = current_database()"""
        wait_until(lambda: query(bank.environ, stuck)[0][0] == 1, "the worker writes", 30)
        bank.batch_worker.kill()
    finally:
        holder.close()
    found = batch(client, batch_id)
    assert (found["status"], found["counts"]["pending"]) == ("pending", ITEMS)
    assert query(bank.environ, "SELECT sum(version) FROM balances") == before
    bank.batch_worker.restart()
    # Its bell died with it: the sweeper rings again.
    assert finished(client, batch_id, "completed")["counts"]["completed"] == ITEMS
    assert query(
        bank.environ, "SELECT count(*) FROM entries e JOIN transactions t ON t.id = e.transaction_id WHERE t.batch_id = %s", batch_id
    ) == [(2 * ITEMS,)]


def test_a_batch_waits_for_its_own_worker_and_singles_do_not_wait_for_it(bank: Bank, client: Client, accounts: list[str]) -> None:
    assert bank.batch_worker is not None
    bank.batch_worker.kill()
    try:
        batch_id = submit(client, "independent", around(accounts)[:10])
        body = {"from_account_id": accounts[0], "to_account_id": accounts[1], "amount": "0.01", "currency": "USD"}
        assert client.post("/transactions/transfer", body, Prefer="wait=10").status == 201
        assert batch(client, batch_id)["status"] == "pending"
    finally:
        bank.batch_worker.restart()
    assert finished(client, batch_id, "completed")["counts"]["completed"] == 10


def test_a_body_that_ends_before_its_length_is_refused(bank: Bank, client: Client, accounts: list[str]) -> None:
    data = json.dumps({"mode": "atomic", "transactions": around(accounts)[:100]}).encode()
    head = "POST /api/v1/transactions/batch{} HTTP/1.1\r\nHost: bank\r\n" + f"Authorization: Bearer {client.token}\r\n"
    before = query(bank.environ, "SELECT count(*) FROM transactions")
    # Of records too that are whole, up to where the connection ended.
    records = b"type,from_account_id,to_account_id,currency,amount\r\n" + f"transfer,{accounts[0]},{accounts[1]},USD,0.01\r\n".encode() * 9
    for path, kind, sent in (("", "application/json", data[: len(data) // 2]), ("?mode=atomic", "text/csv", records)):
        with socket.create_connection(("127.0.0.1", bank.port)) as connection:
            connection.sendall(f"{head.format(path)}Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + sent)
            connection.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 400, response.read()
    assert query(bank.environ, "SELECT count(*) FROM transactions") == before


def test_the_books_and_what_the_events_tell_agree_afterwards(bank: Bank, client: Client, accounts: list[str], tmp_path: Path) -> None:
    finished(client, submit(client, "independent", around(accounts)[:100]), "completed")
    assert wrong(bank) == []
    said = {}
    for command in ("rebuild --check", "check", "replay --from-start --format json"):
        log = tmp_path / "command.log"
        log.unlink(missing_ok=True)
        ended = python(["-m", "bank", *command.split()], bank.environ, log).wait(120)
        said[command] = log.read_text()
        assert ended == 0, said
    told = {each["id"]: each["balance"] for each in json.loads(said["replay --from-start --format json"])["accounts"]}
    # On a connection of its own: the other one was idle for too long.
    now = {each["id"]: each["balance"] for each in bank.client(client.token).get("/accounts?limit=200").json["data"]}
    assert {account_id: told[account_id] for account_id in accounts} == {account_id: now[account_id] for account_id in accounts}
