"""The books of a bank that exchanged: checked, made again from the events, and replayed."""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from bank.cli.rebuild import command
from bank.db import reader
from bank.ledger.invariants import CHECKS, window_after
from bank.replay.run import goal, replay
from tests.books import Books, small_books
from tests.processes import query


@pytest.fixture(scope="module")
def books(environ: Mapping[str, str], as_superuser: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """Books with exchanges at the rate of the day, by a quote and in a batch, moved back in parts and as a whole, and refused."""
    with small_books(environ, as_superuser, tmp_path_factory.mktemp("books")) as books:
        teller = books.teller
        money = {"from_account_id": books.bob, "to_account_id": books.eva, "currency": "USD", "to_currency": "EUR"}
        quote = teller.post("/fx/quotes", amount="1.11", currency="USD", to_currency="EUR")
        quoted = teller.post("/transactions/transfer", **money, amount="1.11", quote_id=quote)
        teller.post("/transactions/transfer", **money, amount="9999.00")
        item = {"type": "transfer", **money, "amount": "0.77"}
        teller.post("/transactions/batch", mode="atomic", transactions=[item, item, {**item, "amount": "0.33"}])
        books.drain()
        for part in ("0.34", "0.40"):
            teller.post(f"/transactions/{quoted}/rollback", amount=part, reason="part")
        books.drain()
        teller.post(f"/transactions/{quoted}/rollback", reason="the rest")
        other_way = {"from_account_id": books.eva, "to_account_id": books.bob, "currency": "EUR", "to_currency": "USD"}
        teller.post("/transactions/transfer", **other_way, amount="0.50")
        books.drain()
        yield books


def test_every_check_finds_nothing_wrong(books: Books) -> None:
    with books.app.app_context(), reader() as session:
        connection = session.connection()
        for window in (None, window_after(connection, None)):
            assert {check.name: found for check in CHECKS if (found := check.find(connection, window))} == {}


def test_the_events_make_the_same_tables(books: Books) -> None:
    found = CliRunner().invoke(command, ["--check"], env=books.environ)
    assert found.exit_code == 0, found.output


def test_a_replay_says_what_every_account_holds(books: Books) -> None:
    with books.app.app_context():
        state = replay(goal(None), lambda _: None)
        with reader() as session:
            rows = session.execute(text("SELECT account_id::text, currency, amount, version FROM balances")).all()
    assert {(row[0], row[1], row[2], row[3]) for row in rows} == {
        (account_id, account.currency, account.balance, account.version) for account_id, account in state.accounts.items()
    }
    assert {account.currency for account in state.accounts.values() if account.kind == "position"} == {"EUR", "USD"}


def test_what_is_kept_of_roundings_is_what_the_transactions_say(books: Books) -> None:
    kept = dict(query(books.environ, "SELECT currency, sum(remainder) FROM balances GROUP BY 1"))
    told = query(
        books.environ,
        """SELECT CASE type WHEN 'rollback' THEN currency ELSE to_currency END, sum(remainder::numeric)
             FROM transactions WHERE remainder IS NOT NULL AND completed_at IS NOT NULL AND failure_code IS NULL GROUP BY 1""",
    )
    assert dict(told) == {currency: left for currency, left in kept.items() if currency in dict(told)}
    assert any(left != 0 for left in kept.values())
    assert kept["EUR"] != Decimal(0)
