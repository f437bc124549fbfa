"""What the tests of faults share: customers with money on a running bank, and the books to check."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import NullPool, create_engine

from bank.ledger.invariants import CHECKS
from tests.processes import Bank


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
    """What is wrong with the books, by name; nothing when all invariants hold. How long something waits is no matter of the books."""
    engine = create_engine(environ["DATABASE_URL"], isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        return [check.name for check in CHECKS if check.name != "queue_is_young" and check.find(connection, None)]
