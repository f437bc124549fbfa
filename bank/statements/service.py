"""What a statement says: the balance before its days, each entry that counts on one of them, and the balance after.

Days are those of an entry's value (`effective_at`), as in `/balances/historical`: so each balance is that of `/balances/at-time`, and a
statement begins where the one before ends. An entry that is backdated later into its days is in it from then on.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from sqlalchemy import text

from bank.balances.service import Holder
from bank.db import reader
from bank.errors import Unprocessable

# The longest statement, in entries: it is read by one statement and made in memory.
MAX_LINES = 10_000

# The longest PDF: a line takes milliseconds to set.
MAX_PDF_LINES = 1_000


@dataclass(frozen=True, slots=True)
class Line:
    """An entry: its signed amount and the balance after it, in the order of value, in minor units."""

    version: int
    booked_on: date
    value_on: date
    amount: int
    balance: int
    transaction_id: str
    type: str
    counterparty_id: str | None
    description: str | None
    reference: str | None
    reverses_id: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """An account's lines from the day `since` to the day before `until`; balances in minor units."""

    account: Holder
    # The username of whose account it is, the only name that the bank knows; and what the owner calls the account.
    holder: str
    name: str | None
    since: date
    until: date
    made_at: datetime
    opening: int
    lines: tuple[Line, ...]

    @property
    def interim(self) -> bool:
        """Whether the last day was not over when this was made, so that the closing balance may still change by the day's own entries."""
        return self.made_at < datetime.combine(self.until, time.min, UTC)

    @property
    def closing(self) -> int:
        """The balance after the last line."""
        return self.lines[-1].balance if self.lines else self.opening


# One statement: a batch that is posted between two would be among the lines and not in the opening. The other side of an entry is what
# every party sees of its transaction; the outside, and the bank's own account that an exchange goes through, are none.
_STATEMENT = text(
    """SELECT opening.balance AS opening, u.username AS holder, a.name, line.*,
              t.type, t.description, t.reference, t.reverses_id::text AS reverses_id,
              CASE WHEN line.amount > 0 THEN t.from_account_id ELSE t.to_account_id END::text AS counterparty_id
         FROM accounts a
         JOIN users u ON u.id = a.user_id
        CROSS JOIN (SELECT COALESCE((SELECT closing FROM daily_balances
                                      WHERE account_id = :account AND day < :since ORDER BY day DESC LIMIT 1), 0)) AS opening (balance)
         LEFT JOIN LATERAL (
              SELECT version, transaction_id, amount, effective_at, posted_at FROM entries
               WHERE account_id = :account AND effective_at >= CAST(CAST(:since AS date) AS timestamptz)
                 AND effective_at < CAST(CAST(:until AS date) AS timestamptz)
               ORDER BY effective_at, version LIMIT :most) AS line ON true
         LEFT JOIN transactions t ON t.id = line.transaction_id
        WHERE a.id = :account
        ORDER BY line.effective_at, line.version"""
)


def statement(held: Holder, since: date, until: date, most: int) -> Statement:
    """The statement of the account from the day `since` to the day before `until`.

    Raises Unprocessable for more than `most` entries.
    """
    made_at = datetime.now(UTC)
    with reader() as session:
        rows = session.execute(_STATEMENT, {"account": held.account_id, "since": since, "until": until, "most": most + 1}).all()
    if len(rows) > most:
        raise Unprocessable.at("/to", f"More than {most} entries; take fewer days.")
    opening = balance = int(rows[0].opening)
    lines = []
    for row in rows:
        # Without an entry there is a row of the opening alone.
        if row.version is None:
            continue
        balance += row.amount
        lines.append(
            Line(
                row.version,
                row.posted_at.astimezone(UTC).date(),
                row.effective_at.astimezone(UTC).date(),
                row.amount,
                balance,
                str(row.transaction_id),
                row.type,
                row.counterparty_id,
                row.description,
                row.reference,
                row.reverses_id,
            )
        )
    return Statement(held, rows[0].holder, rows[0].name, since, until, made_at, opening, tuple(lines))
