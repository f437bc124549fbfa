"""PKDD'99's year over HTTP: 28,205 requests from several clients, and all of them again."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal

import pytest

from tests.acceptance.conftest import THREADS, assert_api_agrees, assert_books_equal, in_threads, state
from tests.acceptance.reference import Row, Year
from tests.processes import Bank, Client, fresh_database, query, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

# A login must outlast the year; and lanes as many as a bank has that nobody told otherwise.
SETTINGS = {"BANK_ACCESS_TOKEN_SECONDS": "3600", "BANK_LANES": ""}


def _open_accounts(bank: Bank, token: str, year: Year) -> dict[str, str]:
    """An account for each of the file's, with an overdraft where the data needs one."""

    def work(client: Client, number: int) -> dict[str, str]:
        ids = {}
        for account in sorted(year.by_account)[number::THREADS]:
            answer = client.post("/accounts", {"currency": "CZK", "name": account})
            assert answer.status == 201, answer.body
            ids[account] = answer.json["id"]
            if year.lowest[account] < 0:
                answer = client.request("PATCH", f"/api/v1/accounts/{ids[account]}", {"overdraft_limit": str(-year.lowest[account])})
                assert answer.status == 200, answer.body
        return ids

    ids: dict[str, str] = {}
    for part in in_threads([bank.client(token) for _ in range(THREADS)], work):
        ids |= part
    return ids


def _post_all(bank: Bank, token: str, year: Year, ids: Mapping[str, str]) -> list[dict[str, tuple[int, str | None, bytes]]]:
    """Post every row, each account's in the file's order; the answers by reference, of each thread."""
    numbers = {account: number % THREADS for number, account in enumerate(sorted(ids))}

    def work(client: Client, number: int) -> dict[str, tuple[int, str | None, bytes]]:
        answers = {}
        for row in year.rows:
            if numbers[row.account] == number:
                answer = client.post(
                    f"/transactions/{'credit' if row.is_credit else 'debit'}", _body(row, ids), key=f"pkdd-{row.reference}"
                )
                answers[row.reference] = (answer.status, answer.headers.get("Idempotent-Replayed"), answer.body)
        return answers

    return in_threads([bank.client(token) for _ in range(THREADS)], work)


def _body(row: Row, ids: Mapping[str, str]) -> dict[str, str]:
    effective_at = f"{row.day.isoformat()}T00:00:00Z"
    body = {"account_id": ids[row.account], "amount": str(row.amount), "currency": "CZK"}
    return {**body, "reference": row.reference, "effective_at": effective_at}


def test_a_year_of_requests_is_posted_to_the_cent_and_repeating_them_changes_nothing(environ, year, tmp_path):
    with fresh_database({**environ, **SETTINGS}, tmp_path) as own, Bank(own, tmp_path, workers=2) as bank:
        token = bank.log_in()
        ids = _open_accounts(bank, token, year)
        answers: dict[str, tuple[int, str | None, bytes]] = {}
        for part in _post_all(bank, token, year, ids):
            answers |= part
        assert len(answers) == len(year.rows) == 28_205
        assert {(status, replayed) for status, replayed, _ in answers.values()} == {(202, None)}

        pending = "SELECT count(*) FROM transactions WHERE status = 'pending'"
        wait_until(lambda: query(own, pending) == [(0,)], "everything is final", 60)
        assert_books_equal(own, year, ids)
        assert_api_agrees(bank, token, year, ids, [date(1993, 9, 28)])
        balances = _current(bank.client(token))
        assert {ids[account]: balance for account, balance in year.balances.items()} == balances

        before = state(own)
        for part in _post_all(bank, token, year, ids):
            for reference, (status, replayed, body) in part.items():
                assert (status, replayed, body) == (202, "true", answers[reference][2])
        assert state(own) == before


def _current(client: Client) -> dict[str, Decimal]:
    """All balances, page by page."""
    balances: dict[str, Decimal] = {}
    cursor = ""
    while cursor is not None:
        page = client.get(f"/balances/current?limit=200{cursor and '&cursor=' + cursor}").json
        balances |= {row["account_id"]: Decimal(row["amount"]) for row in page["data"]}
        cursor = page["next_cursor"]
    return balances
