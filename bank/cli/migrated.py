"""Whether the migration has anything to do: loading what it needs is most of the time a second start takes."""

from collections.abc import Mapping
from hashlib import sha256

import psycopg2

from bank.cli.adoption import ROOT
from bank.cli.layout import Layout


def ask(database_url: str, query: str, *parameters: str) -> str | None:
    """The first column of the first row of a query, if there is one. Raises psycopg2.Error."""
    connection = psycopg2.connect(database_url.replace("postgresql+psycopg2://", "postgresql://", 1), connect_timeout=5)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)
            row = cursor.fetchone()
    finally:
        connection.close()
    return row[0] if row else None


class Migration:
    """Remembers in the data directory that this code has migrated this database."""

    def __init__(self, layout: Layout, environment: Mapping[str, str]) -> None:
        """Of the database that `environment` names."""
        self._note = layout.data_dir / "migrated"
        self._environment = environment

    def is_done(self) -> bool:
        """Whether the same code has migrated it with the same settings, and it is at the version it was at then."""
        return self._note.exists() and self._note.read_text() == self._state()

    def note(self) -> None:
        """Remember that it has just been done."""
        self._note.write_text(self._state() or "")

    def _state(self) -> str | None:
        try:
            version = ask(self._environment["DATABASE_URL"], "SELECT version_num FROM alembic_version")
        except psycopg2.Error:
            return None
        state = sha256(repr([version, self._environment["DATABASE_URL"], self._environment.get("BANK_LANES")]).encode())
        for folder in ("bank", "migrations"):
            for path in sorted((ROOT / folder).rglob("*.py")):
                state.update(path.read_bytes())
        return state.hexdigest()
