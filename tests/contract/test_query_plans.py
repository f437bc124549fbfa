"""Every query of the API has its index, seen at a million entries."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event

from bank import create_app
from bank.config import Config
from bank.db import db, unit_of_work
from bank.proof.blocks import BEFORE_ALL, SECRET_BYTES, Header
from bank.proof.models import Block
from bank.proof.sealer import Sealer
from tests.filling import CLOSINGS, fill
from tests.processes import ADMIN_PASSWORD, fresh_database, query
from tests.proof.conftest import KEY, PUBLIC_KEY

TRANSFERS = 500_000
ACCOUNTS = 1_000

# The last account gets money from all others, a transfer every minute.
_FILL = (
    """INSERT INTO accounts (id, user_id, currency, kind, is_default, version)
       SELECT md5(i::text)::uuid, (SELECT id FROM users), 'USD', 'customer', false, 1 FROM generate_series(0, %(accounts)s - 1) i""",
    """INSERT INTO balances (account_id, user_id, currency, amount, version)
       SELECT id, user_id, currency, 0, 0 FROM accounts""",
    """CREATE TABLE planned AS
       SELECT g AS seq, md5('t' || g)::uuid AS id, md5((g %% (%(accounts)s - 1))::text)::uuid AS source,
              md5((%(accounts)s - 1)::text)::uuid AS target,
              now() - (%(transfers)s - g) * interval '1 minute' AS at
         FROM generate_series(1, %(transfers)s) g""",
    # A hundred hourly schedules ran for 500 hours each; 20,000 others did not yet.
    """INSERT INTO schedules (id, status, created_by, from_user_id, to_user_id, from_account_id, to_account_id, amount, currency,
                              rrule, time_zone, starts_at, month_end, misfire, retry_attempts, retry_delay_seconds, next_run_at, version)
       SELECT md5('s' || g * 10)::uuid, 'active', u.id, u.id, u.id, md5('1')::uuid, md5('2')::uuid, 1, 'USD',
              'FREQ=HOURLY', 'UTC', now(), 'skip', 'skip', 1, 1, now(), 1
         FROM users u CROSS JOIN generate_series(0, 20099) g""",
    """INSERT INTO transactions (id, seq, lane, type, status, from_user_id, to_user_id, from_account_id, to_account_id,
                                 amount, currency, to_amount, to_currency, reference, request_id, schedule_id, version, effective_at,
                                 created_at, completed_at)
       SELECT p.id, seq, seq %% 8, 'transfer', 'completed', u.id, u.id, source, target, 1, 'USD', 1, 'USD', 'R' || seq, 'Q' || seq,
              CASE seq %% 10 WHEN 0 THEN md5('s' || seq %% 1000)::uuid END, 2, at, at, at
         FROM planned p CROSS JOIN users u""",
    """INSERT INTO schedule_runs (schedule_id, due_at, attempts, transaction_id)
       SELECT schedule_id, created_at, 1, id FROM transactions WHERE schedule_id IS NOT NULL""",
    """INSERT INTO events (stream_id, version, type, data, recorded_at)
       SELECT id, 1, 'TransactionSubmitted', '{}', at FROM planned""",
    # The log is sealed up to the event of the transaction that is read; the block that holds it is sealed by the sealer.
    """INSERT INTO blocks (number, last, header, signature, public_key, secret, leaves)
       SELECT n, n * 1000, '{}', '', '', sha256(''), '' FROM generate_series(1, 248) n""",
    """INSERT INTO audit_logs (entity_type, entity_id, action, details, created_at)
       SELECT 'transaction', id, 'transaction.transfer', '{}', at FROM planned""",
    """INSERT INTO entries (account_id, version, transaction_id, currency, amount, balance, effective_at, posted_at)
       SELECT source, row_number() OVER (PARTITION BY source ORDER BY seq), id, 'USD', -1,
              -row_number() OVER (PARTITION BY source ORDER BY seq), at, at FROM planned
       UNION ALL
       SELECT target, seq, id, 'USD', 1, seq, at, at FROM planned""",
    CLOSINGS,
    """UPDATE balances b SET amount = e.amount, version = e.version, overdraft_limit = 1000000
         FROM (SELECT account_id, sum(amount) AS amount, max(version) AS version FROM entries GROUP BY 1) e
        WHERE e.account_id = b.account_id""",
    # There were many batches, and the last ten thousand transactions came in one.
    """INSERT INTO batches (id, user_id, mode, items)
       SELECT md5('b' || g)::uuid, id, 'independent', 10000 FROM users CROSS JOIN generate_series(1, 1000) g""",
    """UPDATE transactions SET batch_id = md5('b1')::uuid, batch_index = seq - %(transfers)s + 9999 WHERE seq > %(transfers)s - 10000""",
    "DROP TABLE planned",
    # Thirty years of rates of thirty currencies, and quotes by the hundred thousand.
    """INSERT INTO fx_rates (currency, day, revision, rate, source)
       SELECT 'U' || chr(65 + c %% 26) || chr(65 + c / 26), date '1999-01-01' + d, 0, 1, 'ecb'
         FROM generate_series(0, 29) c, generate_series(0, 10000) d""",
    """INSERT INTO fx_quotes (id, user_id, amount, currency, to_amount, to_currency, rate, mid_rate, spread, rate_day, remainder,
                              expires_at)
       SELECT gen_random_uuid(), u.id, 1, 'USD', 1, 'EUR', '1', '1', 0, now(), '0', now() FROM users u, generate_series(1, 100000) g""",
    # A replay of every day of a year, of which the last is finished.
    """INSERT INTO replays (id, asked_by, until_position, from_start, status, created_at)
       SELECT md5('r' || g)::uuid, u.id, g, true, CASE g WHEN 365 THEN 'finished' ELSE 'failed' END, now() - (365 - g) * interval '1 day'
         FROM users u CROSS JOIN generate_series(1, 365) g""",
    """INSERT INTO replayed_accounts (replay_id, account_id, currency, kind, status, balance, version)
       SELECT r.id, a.id, 'USD', 'customer', 'active', 0, 0 FROM replays r CROSS JOIN accounts a WHERE until_position > 265""",
)


def signed_block(number: int, last: int) -> Block:
    """A block on which the sealer goes on: what is in it, nobody asks."""
    header = Header(number, last - 1_000, last, 1_000, BEFORE_ALL, BEFORE_ALL, BEFORE_ALL, "2026-01-31T12:00:00.000000Z").to_text()
    return Block(
        number=number,
        last=last,
        header=header,
        signature=KEY.sign(header.encode()),
        public_key=PUBLIC_KEY,
        secret=bytes(SECRET_BYTES),
        leaves=b"",
    )


@pytest.fixture(scope="module")
def big(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A client of a bank with a million entries."""
    with fresh_database(environ, tmp_path_factory.mktemp("big")) as own:
        fill(own, _FILL, accounts=ACCOUNTS, transfers=TRANSFERS)
        app = create_app(Config.from_env(own))
        with app.app_context(), unit_of_work() as session:
            session.add(signed_block(249, 249_000))
            session.flush()
            Sealer(KEY).take(session, 249_000, TRANSFERS)
        yield app.test_client()
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


def reads(client: FlaskClient) -> list[str]:
    """Every reading request, with ids that are there; deep pages, wide ranges and all filters."""
    app = client.application
    own = app.config["BANK"].database_url
    environ = {"DATABASE_URL": own}
    hot, rare = (query(environ, "SELECT md5(%s)::uuid::text", str(number))[0][0] for number in (ACCOUNTS - 1, 7))
    [transaction] = query(environ, "SELECT id::text FROM transactions WHERE seq = 249500")[0]
    [user] = query(environ, "SELECT id::text FROM users")[0]
    names = "md5('b1')::uuid::text, md5('r365')::uuid::text, md5('s10')::uuid::text"
    batch, replay, schedule = query(environ, f"SELECT {names}")[0]
    history = "/transactions/history?limit=20"
    return [
        "/accounts?limit=20",
        f"/accounts?user_id={user}&currency=USD&status=active",
        f"/accounts/{hot}",
        f"/accounts/{hot}/entries?limit=20",
        f"/accounts/{hot}/statement?from=2026-05-05&to=2026-05-10",
        f"/transactions/{transaction}",
        history,
        f"{history}&account_id={hot}",
        f"{history}&account_id={rare}&type=transfer&status=completed&currency=USD&min_amount=0&max_amount=5",
        f"{history}&user_id={user}",
        f"{history}&reference=R77777",
        f"{history}&request_id=Q77777",
        f"{history}&request_id=Q77777&user_id={user}",
        f"{history}&batch_id={batch}",
        f"{history}&batch_id={batch}&account_id={rare}&status=completed",
        f"/transactions/batch/{batch}?limit=20",
        f"/transactions/batch/{batch}?status=failed",
        f"{history}&hold_id={transaction}",
        f"{history}&hold_id={transaction}&user_id={user}",
        f"{history}&schedule_id={schedule}",
        f"{history}&schedule_id={schedule}&user_id={user}",
        *[f"{history}&{few}" for few in ("status=pending", "status=held", "type=rollback", "type=rollback&status=completed")],
        f"{history}&review=open",
        f"{history}&review=open&user_id={user}",
        f"/transactions/{transaction}/explanation",
        "/limits?limit=20",
        f"/limits?user_id={user}",
        "/limits?role=customer&currency=USD",
        "/rules",
        "/schedules?limit=20",
        f"/schedules?user_id={user}",
        "/schedules?status=paused",
        f"/schedules?user_id={user}&status=active",
        f"/schedules/{schedule}",
        f"/schedules/{schedule}/runs?limit=20",
        "/balances/current?limit=20",
        f"/balances/current?account_id={hot}",
        f"/balances/current?user_id={user}",
        f"/balances/historical?account_id={hot}&from=2026-01-01T00:00:00Z&to=2026-06-01T00:00:00Z",
        f"/balances/historical?account_id={hot}&from=2026-03-01T00:00:00Z&to=2026-03-08T00:00:00Z&interval=hour",
        f"/balances/at-time?account_id={hot}&at=2026-05-05T05:05:05Z",
        f"/balances/at-time?account_id={hot}&at=2026-05-05T05:05:05Z&known_at=2026-11-01T00:00:00Z",
        "/fx/rates",
        "/fx/rates?date=2001-01-01",
        "/fx/position",
        "/users?q=adm&role=admin",
        f"/users/{user}",
        "/auth/logins?limit=20",
        "/auth/totp",
        "/events?limit=20",
        f"/events?stream_id={transaction}",
        "/events?from=250000&limit=20",
        *[f"/events?type={name}&from={first}" for name in ("TransactionSubmitted", "UserRegistered") for first in (0, 250_000)],
        f"/events?type=TransactionFailed&stream_id={transaction}",
        "/events/head",
        f"/transactions/{transaction}/receipt",
        "/admin/stats",
        f"/admin/replays/{replay}",
        f"/admin/replays/{replay}/accounts?limit=20",
        *audit_searches(transaction, user),
    ]


def audit_searches(transaction: str, user: str) -> list[str]:
    """Every combination of filters, with much, little and nothing to be found."""
    filters = (
        ("", "entity_type=transaction", "entity_type=import", f"entity_type=transaction&entity_id={transaction}"),
        ("", "action=transaction.transfer", "action=login.ended"),
        ("", f"actor_id={user}"),
        ("", "from=2026-01-01T00:00:00Z"),
        ("", "to=2026-01-01T00:00:00Z"),
    )
    chosen = ["&".join(filter(None, each)) for each in itertools.product(*filters)]
    return [f"/audit-logs?limit=20&{each}".rstrip("&") for each in chosen]


# Tables that grow with the bank; `accounts` and `users` have too few rows here for the planner to care.
_GROWING = re.compile(
    r"Seq Scan on (transactions|batches|entries|events|audit_logs|daily_balances|blocks|replays|replayed_accounts|schedules"
    r"|schedule_runs|fx_rates|fx_quotes)\b"
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_read_scans_a_table_that_grows(big: FlaskClient) -> None:
    login = big.post("/api/v1/auth/login", json={"username": "admin", "password": ADMIN_PASSWORD})
    headers = {"Authorization": f"Bearer {login.json['access_token']}"}
    statements: dict[str, tuple[str, Any]] = {}

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        statements.setdefault(statement, (path, parameters))

    with big.application.app_context():
        engine = db.engines["reader"]
        event.listen(engine, "before_cursor_execute", note)
        try:
            for path in reads(big):
                response = big.get(f"/api/v1{path}", headers=headers)
                assert response.status_code == 200, (path, response.json)
            # What a teller reads leaves out what is a colleague's, which is asked for row by row.
            environ = {"DATABASE_URL": big.application.config["BANK"].database_url}
            query(environ, "UPDATE users SET role = 'teller' WHERE username = 'admin'")
            for path in reads(big):
                if path.startswith(("/accounts", "/balances", "/transactions", "/schedules")):
                    response = big.get(f"/api/v1{path}", headers=headers)
                    assert response.status_code == 200, (path, response.json)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        scans = []
        with engine.connect() as connection:
            known_bad = connection.exec_driver_sql("EXPLAIN SELECT FROM entries WHERE balance = 5").scalars()
            assert _GROWING.search("\n".join(known_bad))
            for statement, (path, parameters) in statements.items():
                plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
                if _GROWING.search(plan):
                    scans.append((path, plan))
    assert len(statements) > 20
    assert scans == []
