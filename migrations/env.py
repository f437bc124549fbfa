"""What Alembic runs: the migrations, one transaction each, over the application's own engine."""

from importlib import import_module
from pathlib import Path

from alembic import context
from flask import current_app
from sqlalchemy import text

import bank

# What is not imported does not exist to `alembic revision --autogenerate`, and it would drop its tables.
for models in sorted(Path(bank.__file__).parent.glob("*/models.py")):
    import_module(f"bank.{models.parent.name}.models")


def run() -> None:
    database = current_app.extensions["migrate"].db
    with database.engine.connect() as connection:
        # A migration may take its time, but must not make the bank wait in line behind its locks. What takes long on a table
        # that is written to is done in an `autocommit_block()`, so that no lock is held until the migration ends.
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=database.metadata,
            compare_type=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("Migrations run against a database: leave out --sql.")
run()
