"""What the tests of faults share: customers with money on a running bank, and the books to check."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.processes import Bank, query


@dataclass(frozen=True)
class Customer:
    """Somebody with an account. All of them belong to one login, which keeps argon2 out of the way."""

    account_id: str
    deposited: int


def open_accounts(bank: Bank, token: str, count: int, deposit: int) -> list[Customer]:
    """`count` accounts of the one who is logged in, each with `deposit` whole dollars posted."""
    client = bank.client(token)
    customers = []
    for number in range(count):
        account = client.post("/accounts", {"currency": "USD", "name": f"account {number}"})
        assert account.status == 201, account.body
        body = {"account_id": account.json["id"], "amount": deposit, "currency": "USD"}
        credited = client.post("/transactions/credit", body, key=f"deposit-{number}", Prefer="wait=20")
        assert credited.status == 201, credited.body
        customers.append(Customer(account.json["id"], deposit * 100))
    client.close()
    return customers


def broken_books(environ: Mapping[str, str]) -> list[str]:
    """What is wrong with the books, by name; nothing when all invariants hold."""
    checks = {
        "the sum over all accounts of a currency is not zero": "SELECT currency FROM balances GROUP BY 1 HAVING sum(amount) <> 0",
        "entries of a transaction do not sum to zero": """
            SELECT transaction_id FROM entries GROUP BY transaction_id, currency HAVING sum(amount) <> 0""",
        "a completed transaction does not have two entries": """
            SELECT t.id FROM transactions t LEFT JOIN entries e ON e.transaction_id = t.id
             GROUP BY t.id HAVING count(e.version) <> CASE WHEN t.status IN ('completed', 'rolled_back') THEN 2 ELSE 0 END""",
        "a balance is not the sum of its entries": """
            SELECT b.account_id FROM balances b LEFT JOIN entries e USING (account_id)
             GROUP BY b.account_id HAVING b.amount <> COALESCE(sum(e.amount), 0) OR b.version <> count(e.version)""",
        "a balance is not that of its last entry": """
            SELECT b.account_id FROM balances b JOIN entries e ON e.account_id = b.account_id AND e.version = b.version
             WHERE e.balance <> b.amount""",
        "an entry's balance does not follow from the one before": """
            SELECT account_id FROM (
                SELECT account_id, version, balance,
                       sum(amount) OVER account AS summed, row_number() OVER account AS number
                  FROM entries WINDOW account AS (PARTITION BY account_id ORDER BY version)) e
             WHERE balance <> summed OR version <> number""",
        "a balance is under its limit": "SELECT account_id FROM balances WHERE amount - held < -overdraft_limit",
        "the last closing balance is not the balance": """
            SELECT b.account_id FROM balances b JOIN LATERAL (
                SELECT closing FROM daily_balances d WHERE d.account_id = b.account_id ORDER BY day DESC LIMIT 1) d ON true
             WHERE d.closing <> b.amount""",
        "a stream has a gap in its versions": "SELECT stream_id FROM events GROUP BY 1 HAVING count(*) <> max(version)",
        "a transaction has not the events of its state": """
            SELECT t.id FROM transactions t JOIN events e ON e.stream_id = t.id
             GROUP BY t.id HAVING t.version <> count(*)""",
    }
    return [name for name, statement in checks.items() if query(environ, statement)]
