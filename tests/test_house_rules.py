"""Conventions worth having are tests."""

import ast
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask_migrate import downgrade, upgrade
from sqlalchemy import CheckConstraint, Connection, NullPool, create_engine, inspect, make_url
from sqlalchemy.event import listen, remove

from bank import create_app
from bank.cli.migrate import bind
from bank.config import Config
from bank.db import db
from bank.ledger.invariants import CHECKS
from bank.web.api import Blueprint
from tests.processes import wait_until

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "bank").rglob("*.py"))
MIGRATIONS = str(ROOT / "migrations")


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Every call in the bank: its file, its node, and what is called, as source."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(ROOT)), node, ast.unparse(node.func)


def test_only_the_unit_of_work_commits() -> None:
    committing = [(path, name) for path, _, name in calls() if name.rpartition(".")[2] in ("commit", "begin", "begin_nested")]
    # A traced connection takes the time of the commit that it is asked for, in two places, and begins none itself.
    passed_on = ("bank/observability/traces.py", "super().commit")
    assert [each for each in committing if each != passed_on] == [("bank/db.py", "session.commit")]
    assert committing.count(passed_on) == 2


# Seconds may be floats; money never meets one.
SECONDS = {("bank/ledger/store.py", "seconds"), ("bank/cli/plan.py", "birth")}


def test_no_money_meets_a_float() -> None:
    made = {(path, ast.unparse(node.args[0])) for path, node, name in calls() if name == "float"}
    assert made <= SECONDS
    money = ("bank/money.py", "bank/ledger", "bank/transactions", "bank/accounts", "bank/balances", "bank/fx")
    divided = [
        (str(path.relative_to(ROOT)), node.lineno)
        for path in SOURCES
        if str(path.relative_to(ROOT)).startswith(money)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and "Path" not in ast.unparse(node)
    ]
    assert divided == []


def test_every_clock_is_read_with_its_zone() -> None:
    for path, node, name in calls():
        assert not name.endswith(("utcnow", "utcfromtimestamp", "date.today", "datetime.today")), (path, node.lineno)
        if name.endswith(("datetime.now", "datetime.fromtimestamp")):
            assert len(node.args) + len(node.keywords) >= 1 + name.endswith("timestamp"), (path, node.lineno)


def test_no_file_is_a_drawer_for_what_has_no_place() -> None:
    assert not [path for path in SOURCES if re.search(r"util|helper|common|misc", path.stem)]


def test_every_blueprint_reads_strictly(app) -> None:
    # The console reads forms, by the same schemas.
    others = {"api-docs", "console"}
    assert [name for name, found in app.blueprints.items() if name not in others and not isinstance(found, Blueprint)] == []


OPEN = {
    # Operational routes, outside the API.
    "/health/live",
    "/health/ready",
    "/metrics",
    "/docs",
    "/docs/start.js",
    "/docs/<path:name>",
    "/openapi.json",
    # Where a login begins.
    "/api/v1/auth/register",
    "/api/v1/auth/login",
    "/console/login",
    # What the pages look like, and that there is no such page.
    "/console/static/<path:filename>",
    "/console/<path:other>",
}


def test_every_route_needs_a_login_but_those_named_here(app, client) -> None:
    guarded = set()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<uuid:\w+>", "019b2f6e-8a00-7000-8000-000000000001", rule.rule)
        path = re.sub(r"<any\((\w+).*?>", r"\1", path)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            if rule.rule not in OPEN:
                answer = client.open(path, method=method, json={})
                # Who looks at pages is led to the login.
                led = answer.status_code == 303 and answer.location.startswith("/console/login")
                assert led if path.startswith("/console/") else answer.status_code == 401, (method, rule.rule)
                guarded.add(rule.rule)
    assert len(guarded) >= 20


def settings_table() -> str:
    """The table of settings as docs/settings.md must have it."""

    def default(value: object) -> str:
        if value in ("", (), None):
            return ""
        return f"`{str(value).lower() if isinstance(value, bool) else value}`"

    rows = [(f"`{field.metadata['env']}`", default(field.default), field.metadata["help"]) for field in fields(Config)]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def test_every_setting_is_documented_as_it_is() -> None:
    expected = settings_table()
    assert expected in (ROOT / "docs" / "settings.md").read_text(), f"docs/settings.md must hold:\n\n{expected}"


def test_every_variable_that_is_read_anywhere_is_documented() -> None:
    """The commands read more of the environment than Config: where to keep the data, how many processes."""
    read = {
        node.args[0].value if isinstance(node.args[0], ast.Constant) else None
        for _, node, name in calls()
        if name.endswith(("environ.get", "environment.get", "given.get")) and node.args
    }
    read |= {node.args[1].value for _, node, name in calls() if name == "_number" and isinstance(node.args[1], ast.Constant)}
    text = (ROOT / "docs" / "settings.md").read_text()
    assert {name for name in read if name and f"`{name}`" not in text} == set()


@pytest.fixture
def empty_app(config: Config) -> Iterator[object]:
    """An application on a database of its own, without any table."""
    name = "house_rules"
    server = make_url(config.database_url)
    connection = psycopg2.connect(server.set(drivername="postgresql").render_as_string(hide_password=False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        app = create_app(replace(config, database_url=server.set(database=name).render_as_string(hide_password=False)))
        bind(app)
        with app.app_context():
            yield app
            db.engine.dispose()
        cursor.execute(f"DROP DATABASE {name}")
    connection.close()


def shape() -> dict[str, object]:
    """Tables, functions and triggers of the current application's database."""
    with db.engine.connect() as connection:
        return {
            kind: sorted(tuple(row) for row in connection.exec_driver_sql(query))
            for kind, query in {
                "columns": """SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
                               WHERE table_schema = 'public' AND table_name <> 'alembic_version'""",
                "constraints": """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
                                   WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'""",
                "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
                "triggers": "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal",
                "functions": "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
            }.items()
        }


def test_every_migration_goes_up_down_and_up_again_and_ends_where_the_models_are(empty_app) -> None:
    nothing = shape()
    scripts = list(ScriptDirectory(MIGRATIONS).walk_revisions())[::-1]
    for script in scripts:
        before = shape()
        upgrade(directory=MIGRATIONS, revision=script.revision)
        after = shape()
        assert after != before, script
        downgrade(directory=MIGRATIONS, revision="-1")
        assert shape() == before, script
        upgrade(directory=MIGRATIONS, revision=script.revision)
        assert shape() == after, script
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, db.metadata) == []
        # Alembic does not compare checks.
        found = inspect(connection)
        for table in db.metadata.sorted_tables:
            checks = {constraint["name"] for constraint in found.get_check_constraints(table.name)}
            assert checks == {str(check.name) for check in table.constraints if isinstance(check, CheckConstraint)}, table.name
    downgrade(directory=MIGRATIONS, revision="base")
    assert shape() == nothing


# A migration that takes away what the version before the last used: its revision, and what goes.
CONTRACTS: dict[str, set[str]] = {}


def test_a_migration_leaves_the_version_before_it_what_it_reads_and_writes(empty_app) -> None:
    def columns() -> dict[str, tuple[str, bool, bool]]:
        """By table and column: its type, whether it may be left empty, and whether it may be left out of an INSERT."""
        query = """SELECT table_name || '.' || column_name, data_type, is_nullable = 'YES',
                          is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES'
                     FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'"""
        with db.engine.connect() as connection:
            return {row[0]: (row[1], row[2], row[3]) for row in connection.exec_driver_sql(query)}

    before: dict[str, tuple[str, bool, bool]] = {}
    for script in list(ScriptDirectory(MIGRATIONS).walk_revisions())[::-1]:
        upgrade(directory=MIGRATIONS, revision=script.revision)
        after = columns()
        tables = {name.split(".")[0] for name in before}
        assert {*before} - {*after} == CONTRACTS.get(script.revision, set()), script
        for name, (kind, empty, _) in after.items():
            if name in before:
                assert kind == before[name][0], f"{script}: {name} has another type"
                assert empty or not before[name][1], f"{script}: {name} may not be empty any more"
        new = [name for name in after if name not in before and name.split(".")[0] in tables]
        assert [name for name in new if not after[name][2]] == [], f"{script}: the version before cannot write these tables"
        before = after


BOOKED = """
    WITH event AS (
        INSERT INTO events (position, stream_id, version, type, data, trace_id) OVERRIDING SYSTEM VALUE
        SELECT n * 1500, gen_random_uuid(), 1, 'TransactionSubmitted', '{}', CASE WHEN n <> 3 THEN 'trace ' || n END
          FROM generate_series(1, 5) n RETURNING position, stream_id)
    INSERT INTO transactions (id, seq, lane, type, status, amount, currency, to_amount, to_currency, effective_at)
    SELECT stream_id, position, 0, 'credit', 'pending', 1, 'USD', 1, 'USD', now() FROM event
"""


@pytest.fixture
def booked(empty_app) -> None:
    """Transactions that were accepted before they had a trace, far enough from each other for several slices."""
    upgrade(directory=MIGRATIONS, revision="0003")
    with db.engine.begin() as connection:
        connection.exec_driver_sql(BOOKED)


def traces() -> list[str | None]:
    with db.engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT trace_id FROM transactions ORDER BY seq").scalars())


@pytest.mark.usefixtures("booked")
def test_traces_come_to_the_transactions_that_are_there_without_stopping_the_bank() -> None:
    locks = """SELECT FROM pg_locks WHERE pid = pg_backend_pid()
                  AND relation IN ('transactions'::regclass, 'entries'::regclass, 'events'::regclass, 'balances'::regclass)
                  AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"""
    statements, keeping_locks = [], []

    def executed(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        statements.append(statement.strip())
        # A lock that is left behind a statement lasts until a commit.
        with connection.connection.cursor() as cursor:
            cursor.execute(locks)
            if cursor.fetchall():
                keeping_locks.append(statements[-1])

    listen(db.engine, "after_cursor_execute", executed)
    try:
        upgrade(directory=MIGRATIONS, revision="0004")
    finally:
        remove(db.engine, "after_cursor_execute", executed)
    assert traces() == ["trace 1", "trace 2", None, "trace 4", "trace 5"]
    assert len([statement for statement in statements if "UPDATE transactions" in statement]) == 4
    built = [statement for statement in statements if statement.startswith("CREATE INDEX") and " ON entries " in statement]
    assert len(built) == 2 and all(statement.startswith("CREATE INDEX CONCURRENTLY") for statement in built)
    # What is quick whatever is in the tables.
    assert {" ".join(statement.split()[:2]) for statement in keeping_locks} == {"DROP INDEX", "ALTER INDEX", "UPDATE alembic_version"}


@pytest.mark.usefixtures("booked")
def test_a_migration_that_failed_anywhere_is_run_again() -> None:
    class Failure(Exception):
        """The end of the process, or of the connection."""

    executed: list[str] = []
    fails_at: int | None = None

    def executing(_: Connection, __: Any, statement: str, *___: Any) -> None:
        if len(executed) == fails_at:
            raise Failure
        executed.append(statement)

    listen(db.engine, "before_cursor_execute", executing)
    try:
        upgrade(directory=MIGRATIONS, revision="0004")
        whole, told = shape(), traces()
        # Its tables come first, all in one transaction, of which the last statements are enough.
        end = next(number for number, statement in enumerate(executed) if statement.startswith("UPDATE alembic_version")) + 1
        beginning = next(number for number, statement in enumerate(executed) if statement.startswith("ALTER TABLE transactions")) - 4
        assert 4 < beginning < end - 10
        for number in range(beginning, end):
            downgrade(directory=MIGRATIONS, revision="-1")
            executed.clear()
            fails_at = number
            with pytest.raises(Failure):
                upgrade(directory=MIGRATIONS, revision="0004")
            fails_at = None
            upgrade(directory=MIGRATIONS, revision="0004")
            assert (shape(), traces()) == (whole, told), number
    finally:
        remove(db.engine, "before_cursor_execute", executing)


ONLINE = ["0005", "0006", "0007", "0008", "0009", "0011", "0012"]


def before(revision: str) -> str:
    """The revision that one comes after."""
    found = ScriptDirectory(MIGRATIONS).get_revision(revision).down_revision
    assert isinstance(found, str)
    return found


# What keeps nobody for long: it looks at no row, or lets others write meanwhile.
QUICK = re.compile(
    r"CREATE TABLE|SELECT|SET lock_timeout|UPDATE alembic_version|DROP INDEX CONCURRENTLY|CREATE INDEX CONCURRENTLY|"
    r"ALTER TABLE \w+ (VALIDATE CONSTRAINT \w+$|ALTER COLUMN|(?!.*ADD CONSTRAINT (?!.*NOT VALID)))|"
    r"CREATE INDEX IF NOT EXISTS \w+ ON (schedule|fx_|limits)|CREATE OR REPLACE TRIGGER (fx_rates|erased_events|events|audit_logs)_|"
    r"CREATE OR REPLACE FUNCTION (left_of_event|refuse_change_of_(event|audit_log))\("
)


@pytest.mark.parametrize("revision", ONLINE)
def test_a_migration_keeps_nobody_waiting_and_is_run_again_where_it_failed(empty_app, revision) -> None:
    class Failure(Exception):
        """The end of the process, or of the connection."""

    upgrade(directory=MIGRATIONS, revision=before(revision))
    executed: list[str] = []
    fails_at: int | None = None

    def executing(_: Connection, __: Any, statement: str, *___: Any) -> None:
        if len(executed) == fails_at:
            raise Failure
        executed.append(" ".join(statement.split()))

    listen(db.engine, "before_cursor_execute", executing)
    try:
        upgrade(directory=MIGRATIONS, revision=revision)
        whole, statements = shape(), list(executed)
        changing = [number for number, statement in enumerate(statements) if statement.startswith(("CREATE", "ALTER", "DROP", "SET lock"))]
        assert [statements[number] for number in changing if not QUICK.match(statements[number])] == []
        for number in changing[::2]:
            downgrade(directory=MIGRATIONS, revision="-1")
            executed.clear()
            fails_at = number
            with pytest.raises(Failure):
                upgrade(directory=MIGRATIONS, revision=revision)
            fails_at = None
            upgrade(directory=MIGRATIONS, revision=revision)
            assert shape() == whole, statements[number]
    finally:
        remove(db.engine, "before_cursor_execute", executing)


@pytest.mark.parametrize("revision", ONLINE)
def test_a_request_in_the_middle_and_a_migration_do_not_wait_for_each_other(empty_app, revision) -> None:
    upgrade(directory=MIGRATIONS, revision=before(revision))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    def migrate() -> None:
        with empty_app.app_context():
            upgrade(directory=MIGRATIONS, revision=revision)

    with ThreadPoolExecutor(1) as pool, db.engine.connect() as request, db.engine.connect() as other:
        request.exec_driver_sql("SELECT FROM idempotency_keys")
        migration = pool.submit(migrate)
        other = other.execution_options(isolation_level="AUTOCOMMIT")
        wait_until(lambda: migration.done() or other.exec_driver_sql(waiting).scalar_one() > 0, "the migration waits", 20)
        request.exec_driver_sql("LOCK TABLE transactions IN ROW EXCLUSIVE MODE")
        request.rollback()
        migration.result()


HELD = """
    WITH event AS (INSERT INTO events (stream_id, version, type, data)
                   SELECT gen_random_uuid(), 1, 'TransactionSubmitted', '{}' FROM generate_series(1, 3) RETURNING position, stream_id)
    INSERT INTO transactions (id, seq, lane, type, status, amount, currency, to_amount, to_currency, effective_at, expires_at, held_amount,
                              captured_amount)
    SELECT stream_id, position, 0, 'transfer', told.status, 5, 'USD', 5, 'USD', now(), now(), told.held, told.captured
      FROM (SELECT *, row_number() OVER () AS number FROM event) e
      JOIN (VALUES (1, 'held', 5, 0), (2, 'completed', 0, 5), (3, 'voided', 0, 0)) AS told (number, status, held, captured) USING (number)
"""


def test_holds_are_over_before_their_migration_is_taken_back_and_are_no_transfers_afterwards(empty_app) -> None:
    upgrade(directory=MIGRATIONS, revision="0006")
    with db.engine.begin() as connection:
        connection.exec_driver_sql(HELD)
    with pytest.raises(SystemExit):
        downgrade(directory=MIGRATIONS, revision="-1")
    with db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE transactions SET status = 'voided', held_amount = 0 WHERE status = 'held'")
    downgrade(directory=MIGRATIONS, revision="-1")
    with db.engine.connect() as connection:
        # A transfer that is completed can be rolled back.
        assert {*connection.exec_driver_sql("SELECT status FROM transactions").scalars()} == {"voided"}
    upgrade(directory=MIGRATIONS, revision="0006")


@pytest.mark.parametrize(
    "booked",
    [
        "INSERT INTO accounts (id, currency, kind, is_default, version) VALUES (gen_random_uuid(), 'EUR', 'position', false, 1)",
        """INSERT INTO schedules (id, status, created_by, from_user_id, to_user_id, from_account_id, to_account_id, amount, currency,
                                  to_currency, run_at, misfire, retry_attempts, retry_delay_seconds, version)
           VALUES (gen_random_uuid(), 'paused', gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),
                   gen_random_uuid(), 1, 'USD', 'EUR', now(), 'skip', 1, 1, 1)""",
    ],
    ids=["a position", "a schedule"],
)
def test_where_money_was_exchanged_there_is_no_way_back_to_one_currency(empty_app, as_superuser, booked) -> None:
    upgrade(directory=MIGRATIONS, revision="0008")
    with create_engine(as_superuser(empty_app.config["BANK"].database_url), poolclass=NullPool).begin() as connection:
        # Whose they are does not matter here.
        connection.exec_driver_sql("SET session_replication_role = replica")
        connection.exec_driver_sql(booked)
    with pytest.raises(SystemExit):
        downgrade(directory=MIGRATIONS, revision="-1")


def test_every_alert_watches_metrics_that_there_are_and_leads_to_a_runbook(client) -> None:
    rules = (ROOT / "monitoring" / "prometheus" / "alerts.yml").read_text()
    shown = client.get("/metrics").text
    alerts = re.split(r"^ +- alert: ", rules, flags=re.MULTILINE)[1:]
    assert alerts
    for alert in alerts:
        name = alert.splitlines()[0]
        metrics = [name.removesuffix("_bucket").removesuffix("_count") for name in re.findall(r"\b(?:bank|http_request)_\w+", alert)]
        assert metrics and all(f"# TYPE {metric} " in shown for metric in metrics), name
        assert re.search(r"^ +summary: \S", alert, re.MULTILINE), name
        page, _, heading = re.search(r"^ +runbook_url: (.+)$", alert, re.MULTILINE)[1].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert not heading or heading in [each.lower().replace(" ", "-") for each in headings], name


def test_the_runbook_of_invariants_explains_every_check() -> None:
    told = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "runbooks" / "invariant-violated.md").read_text(), re.MULTILINE)
    assert told == [check.name for check in CHECKS]
