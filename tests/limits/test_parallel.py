"""A limit holds whoever pays at once: real processes, several lanes."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bank.cli.check import command as check
from bank.cli.rebuild import command as rebuild
from bank.ledger.system import lane_of
from tests.processes import Bank, fresh_database, query, wait_until

PAYMENTS = 50


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_payments_at_once_from_accounts_on_all_lanes_never_exceed_a_limit_together(
    environ: dict[str, str], servers_directory: Path
) -> None:
    """Of one user with an account on each lane, while two workers drain them; and the books are as the events say."""
    with fresh_database(environ, servers_directory) as own, Bank(own, servers_directory, workers=2) as bank:
        admin = bank.client(bank.log_in())
        lanes = int(environ["BANK_LANES"])
        accounts: dict[int, str] = {}
        while len(accounts) < lanes:
            account_id = admin.post("/accounts", {"currency": "USD"}).json["id"]
            accounts[lane_of(account_id, lanes)] = account_id
        body = {"username": "bob", "email": "bob@example.com", "password": "correct horse battery staple"}
        bob = admin.post("/auth/register", body).json["id"]
        for account_id in accounts.values():
            credit = {"account_id": account_id, "amount": "1000.00", "currency": "USD"}
            assert admin.post("/transactions/credit", credit, Prefer="wait=20").status == 201
        [[owner]] = query(own, "SELECT user_id::text FROM accounts WHERE id = %s", accounts[0])
        limits = ({"kind": "sum", "amount": "100.00", "window": "day"}, {"kind": "count", "count": 18, "window": "hour"})
        for limit in limits:
            assert admin.post("/limits", {"user_id": owner, "currency": "USD", **limit}).status == 201
        assert admin.post("/rules", {"name": "Odd", "expression": "transaction.amount == 701", "effect": "flag"}).status == 201

        def pay(number: int) -> str:
            client = bank.client(admin.token)
            transfer: dict[str, Any] = {"from_account_id": accounts[number % lanes], "amount": f"7.0{number % 2}", "currency": "USD"}
            made = client.post("/transactions/transfer", {**transfer, "to_user_id": bob, "hold": number % 5 == 0})
            client.close()
            assert made.status == 202, made.body
            return str(made.json["id"])

        with ThreadPoolExecutor(16) as pool:
            made = list(pool.map(pay, range(PAYMENTS)))
        wait_until(lambda: not query(own, "SELECT 1 FROM transactions WHERE status = 'pending'"), "all are decided", 60)
        rows = query(own, "SELECT status, failure_code, amount FROM transactions WHERE id = ANY(%s::uuid[])", made)
        let = [amount for status, _, amount in rows if status in ("completed", "held")]
        assert {code for status, code, _ in rows if status == "failed"} == {"limit_exceeded"}
        # Not one more would have fitted, and all that could were let.
        assert sum(let) <= 10_000 < sum(let) + 701
        assert len(rows) == PAYMENTS
        used = query(
            own, "SELECT data -> 'checks' -> 0 ->> 3 FROM events WHERE type IN ('TransactionCompleted', 'TransactionHeld') AND schema = 2"
        )
        # Each saw what those before it had used, and no two the same.
        assert max(Counter(used).values()) == 1 and len(used) == len(let)
        admin.close()
        for command, options in ((check, []), (rebuild, ["--check"])):
            result = CliRunner(env={**own, "COLUMNS": "200"}).invoke(command, options)
            assert result.exit_code == 0, result.output
