"""What the bank's role may do on tables that belong to another one: read and write, and never lift what the schema forbids."""

from sqlalchemy import make_url

from bank.config import Config, ConfigError
from bank.db import unit_of_work

# Of what is written once a trigger refuses the change. Who has no right to it and does not own the table can take no trigger away. An
# erasure writes over what is personal in two of these, where a trigger lets nothing else through.
_TABLES = """
    SELECT c.oid::regclass::text,
           CASE WHEN c.relname = 'alembic_version' THEN 'SELECT'
                WHEN c.relname = 'events' THEN 'SELECT, INSERT, UPDATE (data)'
                WHEN c.relname = 'audit_logs' THEN 'SELECT, INSERT, UPDATE (details)'
                WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgfoid = 'refuse_change'::regproc)
                THEN 'SELECT, INSERT' ELSE 'SELECT, INSERT, UPDATE, DELETE' END
      FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
"""


def grant(config: Config) -> None:
    """Give the role of DATABASE_URL what it needs on the tables of that of DATABASE_OWNER_URL. Nothing to do where these are one.

    To be called in the context of an application that connects as the owner. May be called again, and while the bank runs. Raises
    ConfigError where DATABASE_URL names no role.
    """
    role, owner = make_url(config.database_url).username, make_url(config.as_owner().database_url).username
    if role == owner:
        return
    if role is None:
        raise ConfigError("DATABASE_URL: must name its role where DATABASE_OWNER_URL is given.")
    with unit_of_work() as session:
        connection = session.connection()
        to = connection.dialect.identifier_preparer.quote(role)
        for table, rights in connection.exec_driver_sql(_TABLES).all():
            connection.exec_driver_sql(f"REVOKE ALL ON {table} FROM {to}")
            connection.exec_driver_sql(f"GRANT {rights} ON {table} TO {to}")
        connection.exec_driver_sql(f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {to}")
        # For those that `bank rebuild` puts in their places: the bank uses them from that moment on.
        connection.exec_driver_sql(f"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {to}")
