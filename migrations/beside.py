"""What migrations do beside a running bank, in an `autocommit_block()`: each statement is a transaction of its own.

So no lock is kept while another one is waited for: a request that has looked for its idempotency key and is about to write its
transaction, and a migration that has the latter's table and wants the former's, would wait for each other. What takes long keeps
nobody from writing. All of it may be done again after a failure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from alembic import op


def extend(table: str, columns: Mapping[str, str], constraints: Mapping[str, str]) -> None:
    """Add columns, by name with their type, and constraints, by name with their definition; one that has the name is replaced.

    Constraints hold for new rows at once. Whether they do for those that are there is looked at afterwards.
    """
    changes = [
        *(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in columns.items()),
        *(f"DROP CONSTRAINT IF EXISTS {name}" for name in constraints),
        *(f"ADD CONSTRAINT {name} {definition} NOT VALID" for name, definition in constraints.items()),
    ]
    op.execute(f"ALTER TABLE {table} {', '.join(changes)}")
    for name in constraints:
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def build_index(name: str, table: str, columns: Sequence[Any], **options: Any) -> None:
    """Build an index without keeping anybody from writing."""
    # What a run that failed left behind may be invalid. Nobody waits behind such a build while it waits for others.
    op.execute("SET lock_timeout = 0")
    op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
    op.create_index(name, table, columns, unique=False, postgresql_concurrently=True, **options)
    op.execute("SET lock_timeout = '5s'")
