"""The SQL of imports, in sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.ledger.decide import AccountState


@dataclass(frozen=True, slots=True)
class Known:
    """A file that was brought in before, in whole or in part, and the beginnings of it before that."""

    id: str
    owner_id: str
    lines_done: int
    created_at: datetime
    finished_at: datetime | None
    chain: tuple[str, ...]


def now(session: Session) -> datetime:
    """The database's time."""
    moment: datetime = session.execute(text("SELECT now()")).scalar_one()
    return moment


def user_named(session: Session, username: str) -> str | None:
    """The id of the user of that name who can own accounts."""
    query = text("SELECT id::text FROM users WHERE lower(username) = lower(:username) AND status <> 'deleted'")
    return session.execute(query, {"username": username}).scalar_one_or_none()


def sizes(session: Session, options: bytes, below: int) -> list[int]:
    """The sizes in bytes of the smaller files that were imported with these options."""
    query = text("SELECT DISTINCT size FROM imports WHERE options = :options AND size < :below ORDER BY size")
    return list(session.execute(query, {"options": options, "below": below}).scalars())


_FIND = """
    WITH RECURSIVE chain AS (
        SELECT id, continues_id, 1 AS depth FROM imports WHERE content = :content AND options = :options
        UNION ALL
        SELECT i.id, i.continues_id, c.depth + 1 FROM chain c JOIN imports i ON i.id = c.continues_id
    )
    SELECT i.id::text, i.owner_id::text, i.lines_done, i.created_at, i.finished_at,
           ARRAY(SELECT id::text FROM chain ORDER BY depth)
      FROM imports i WHERE i.content = :content AND i.options = :options
"""


def find(session: Session, content: bytes, options: bytes, *, lock: bool = False) -> Known | None:
    """The import of the file with this content and these options.

    With `lock`, waits for a commit of it that is still on its way, also that of a process just killed.
    """
    row = session.execute(text(_FIND + " FOR NO KEY UPDATE OF i" * lock), {"content": content, "options": options}).one_or_none()
    return None if row is None else Known(row[0], row[1], row[2], row[3], row[4], tuple(row[5]))


def create(session: Session, values: Mapping[str, Any]) -> None:
    """Insert an import. A second one of the same file at the same time waits, and then changes nothing."""
    session.execute(
        text(
            """INSERT INTO imports (id, content, options, size, name, owner_id, continues_id, lines_done)
               VALUES (:id, :content, :options, :size, :name, :owner_id, :continues_id, :lines_done)
               ON CONFLICT (content, options) DO NOTHING"""
        ),
        values,
    )


def lock_progress(session: Session, import_id: str) -> tuple[int, bool]:
    """The line up to which all is recorded, and whether a longer file has taken over from there; locked."""
    query = text(
        """SELECT lines_done, finished_at IS NULL AND EXISTS (SELECT FROM imports l WHERE l.continues_id = i.id)
             FROM imports i WHERE id = CAST(:id AS uuid) FOR NO KEY UPDATE"""
    )
    lines_done, taken_over = session.execute(query, {"id": import_id}).one()
    return lines_done, taken_over


def save_progress(session: Session, import_id: str, lines_done: int) -> None:
    """All up to this line is recorded."""
    query = text("UPDATE imports SET lines_done = :done WHERE id = CAST(:id AS uuid)")
    session.execute(query, {"id": import_id, "done": lines_done})


def finish(session: Session, import_id: str) -> None:
    """Every line is final."""
    session.execute(text("UPDATE imports SET finished_at = now() WHERE id = CAST(:id AS uuid)"), {"id": import_id})


def accounts_named(session: Session, owner_id: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Account id and currency by name, of the names that have an account."""
    query = """
        SELECT i.name, i.account_id::text, a.currency FROM import_accounts i JOIN accounts a ON a.id = i.account_id
         WHERE i.owner_id = %s::uuid AND i.name = ANY(%s::text[])
    """
    rows = session.connection().exec_driver_sql(query, (owner_id, list(names)))
    return {name: (account_id, currency) for name, account_id, currency in rows}


def states(session: Session, account_ids: Sequence[str]) -> dict[str, AccountState]:
    """The accounts as they stand, by id."""
    query = """
        SELECT account_id::text, currency, status, overdraft_limit, amount, held, version
          FROM balances WHERE account_id = ANY(%s::uuid[])
    """
    return {row[0]: AccountState(*row) for row in session.connection().exec_driver_sql(query, (list(account_ids),))}


def lock_owner(session: Session, owner_id: str) -> None:
    """Let one import at a time open accounts for the owner."""
    session.execute(text("SELECT 1 FROM users WHERE id = CAST(:id AS uuid) FOR NO KEY UPDATE"), {"id": owner_id})


def name_accounts(session: Session, owner_id: str, ids: Mapping[str, str]) -> None:
    """Remember which accounts stand for the names."""
    statement = "INSERT INTO import_accounts (owner_id, name, account_id) SELECT %s::uuid, * FROM unnest(%s::text[], %s::uuid[])"
    session.connection().exec_driver_sql(statement, (owner_id, list(ids), list(ids.values())))


@dataclass(frozen=True, slots=True)
class Recorded:
    """The transaction that an account's reference stands for, and whether this very file brought it in."""

    transaction_id: str
    in_this_file: bool
    type: str
    amount: int
    currency: str
    effective_at: datetime


_RECORDED = """
    SELECT l.account_id::text, l.reference, t.id::text,
           l.import_id = ANY(%(chain)s::uuid[])
           OR EXISTS (SELECT FROM import_lines k WHERE k.transaction_id = t.id AND k.import_id = ANY(%(chain)s::uuid[])),
           t.type, t.amount, t.currency, t.effective_at
      FROM unnest(%(accounts)s::uuid[], %(references)s::text[]) AS w (account_id, reference)
      JOIN import_lines l ON l.account_id = w.account_id AND l.reference = w.reference AND l.outcome = 'submitted'
      JOIN transactions t ON t.id = l.transaction_id
"""


def recorded(session: Session, chain: Sequence[str], keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Recorded]:
    """What the keys (account id and reference) stand for already. `chain` are the imports that this file is made of."""
    parameters = {"chain": list(chain), "accounts": [key[0] for key in keys], "references": [key[1] for key in keys]}
    rows = session.connection().exec_driver_sql(_RECORDED, parameters)
    return {(row[0], row[1]): Recorded(*row[2:]) for row in rows}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the line that begins at `line`; see `ImportLine`."""

    line: int
    outcome: str
    account_id: str | None = None
    reference: str | None = None
    transaction_id: str | None = None
    reason: str | None = None
    detail: str | None = None


_RECORD = """
    INSERT INTO import_lines (import_id, line, outcome, account_id, reference, transaction_id, reason, detail)
    SELECT %s::uuid, * FROM unnest(%s::int[], %s::text[], %s::uuid[], %s::text[], %s::uuid[], %s::text[], %s::text[])
"""


def record(session: Session, import_id: str, outcomes: Sequence[Outcome]) -> None:
    """Write down what became of lines."""
    columns = [[getattr(outcome, name) for outcome in outcomes] for name in Outcome.__slots__]
    session.connection().exec_driver_sql(_RECORD, (import_id, *columns))


# Whatever took its time in a large file may take it here.
_PATIENT = text("SET LOCAL statement_timeout = 0")

_SETTLE = """
    UPDATE import_lines l SET outcome = 'refused', reason = t.failure_code, detail = 'The ledger refused it.'
      FROM transactions t
     WHERE l.import_id = ANY(%s::uuid[]) AND l.outcome <> 'refused' AND t.id = l.transaction_id AND t.status = 'failed'
"""


def settle(session: Session, chain: Sequence[str]) -> None:
    """Turn the lines whose transaction the ledger refused into refused lines."""
    session.execute(_PATIENT)
    session.connection().exec_driver_sql(_SETTLE, (list(chain),))


_REFUSED = """
    SELECT line, reason, detail FROM import_lines
     WHERE import_id = ANY(%s::uuid[]) AND outcome = 'refused' AND line > %s ORDER BY line LIMIT 5000
"""


def refused(session: Session, chain: Sequence[str], after: int) -> list[tuple[int, str, str]]:
    """Line, reason and detail of the next refused lines behind line `after`, in the order of the file; some thousands."""
    rows = session.connection().exec_driver_sql(_REFUSED, (list(chain), after))
    return [(row[0], row[1], row[2]) for row in rows]


def outcomes(session: Session, chain: Sequence[str]) -> dict[str, int]:
    """How many lines had which outcome."""
    session.execute(_PATIENT)
    query = "SELECT outcome, count(*) FROM import_lines WHERE import_id = ANY(%s::uuid[]) GROUP BY 1"
    return {row[0]: row[1] for row in session.connection().exec_driver_sql(query, (list(chain),))}


_DIFFERENCES = """
    WITH file AS (
        SELECT * FROM unnest(%(names)s::text[], %(currencies)s::text[], %(credits)s::numeric[], %(debits)s::numeric[],
                             %(counts)s::bigint[]) AS f (name, currency, credits, debits, count)
    ), books AS (
        SELECT a.name, e.currency, COALESCE(sum(e.amount) FILTER (WHERE e.amount > 0), 0) AS credits,
               COALESCE(-sum(e.amount) FILTER (WHERE e.amount < 0), 0) AS debits, count(*) AS count
          FROM import_lines l
          JOIN import_accounts a ON a.account_id = l.account_id AND a.owner_id = %(owner)s::uuid
          JOIN entries e ON e.transaction_id = l.transaction_id AND e.account_id = l.account_id
         WHERE l.import_id = ANY(%(chain)s::uuid[]) AND l.outcome <> 'refused'
         GROUP BY 1, 2
    )
    SELECT COALESCE(f.name, b.name), COALESCE(f.currency, b.currency), COALESCE(f.credits, 0)::text, COALESCE(f.debits, 0)::text,
           COALESCE(f.count, 0), COALESCE(b.credits, 0)::text, COALESCE(b.debits, 0)::text, COALESCE(b.count, 0)
      FROM file f FULL JOIN books b ON b.name = f.name AND b.currency = f.currency
     WHERE (f.credits, f.debits, f.count) IS DISTINCT FROM (b.credits, b.debits, b.count)
     ORDER BY 1, 2
"""


def differences(
    session: Session, owner_id: str, chain: Sequence[str], sums: Mapping[tuple[str, str], Sequence[int]]
) -> list[tuple[str, str, tuple[int, int, int], tuple[int, int, int]]]:
    """Accounts whose entries are not what the file says: name, currency, and the sums of file and books.

    `sums` are credits, debits (minor units) and count by account name and currency.
    """
    session.execute(_PATIENT)
    parameters = {
        "names": [key[0] for key in sums],
        "currencies": [key[1] for key in sums],
        "credits": [value[0] for value in sums.values()],
        "debits": [value[1] for value in sums.values()],
        "counts": [value[2] for value in sums.values()],
        "owner": owner_id,
        "chain": list(chain),
    }
    rows = session.connection().exec_driver_sql(_DIFFERENCES, parameters)
    return [(row[0], row[1], (int(row[2]), int(row[3]), row[4]), (int(row[5]), int(row[6]), row[7])) for row in rows]
