"""The projections can be thrown away: the events make them again, to the same bytes."""

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection

from bank import create_app
from bank.cli.rebuild import command
from bank.config import Config
from bank.events.types import NAMES, TYPES
from bank.ledger.system import every_lane
from bank.rebuild import shadow
from bank.rebuild.projections import READ, STATEMENTS, TABLES
from tests.faults.conftest import broken_books, open_accounts
from tests.processes import Bank, Client, fresh_database, query, wait_until

SWAPPED = [table for table in TABLES if table != "users"]

Harm = Callable[[str], None]


@pytest.fixture
def harm(bank: Bank, as_superuser: Callable[[str], str]) -> Harm:
    """Run statements with a superuser's hands, past every trigger and key."""
    url = as_superuser(bank.environ["DATABASE_URL"])
    return lambda statements: query({"DATABASE_URL": url}, f"SET session_replication_role = replica; {statements}") and None


@pytest.fixture(scope="module")
def bank(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """A bank with a little of everything in its books."""
    directory = tmp_path_factory.mktemp("bank")
    with fresh_database(environ, directory) as own, Bank(own, directory, workers=1) as bank:
        live_a_little(bank.client(bank.log_in()))
        yield bank


def live_a_little(client: Client) -> None:
    """One of each thing that can happen."""
    person = {"username": "alice", "email": "alice@example.com", "password": "a tall ship and a star to steer by"}
    alice = client.post("/auth/register", person).json["id"]
    assert client.request("PUT", f"/api/v1/users/{alice}", {"email": "alice@example.org"}).status == 200

    def post(path: str, **body: object) -> str:
        answer = client.post(f"/transactions/{path}", body, Prefer="wait=10")
        assert answer.status in (201, 422), answer.body
        return str((answer.json if answer.status == 201 else answer.json["transaction"])["id"])

    ours = client.post("/accounts", {"currency": "USD", "name": "Household"}).json["id"]
    theirs = client.post("/accounts", {"currency": "USD", "user_id": alice}).json["id"]
    for change in ({"overdraft_limit": "50.00"}, {"name": "House"}, {"overdraft_limit": "0.00"}):
        answer = client.request("PATCH", f"/api/v1/accounts/{theirs}", change)
        assert answer.status == 200, answer.body
    money = {"amount": "12.34", "currency": "USD"}
    post("credit", account_id=ours, amount="100.00", currency="USD", metadata={"ünï": "cödé"}, reference="R-1")
    post("credit", account_id=ours, **money, effective_at="2020-02-29T23:59:59.999999Z")
    post("credit", account_id=ours, **money, effective_at="2020-02-28T00:00:00Z", description="Behind the one before")
    moved = post("transfer", from_account_id=ours, to_account_id=theirs, **money)
    post(f"{moved}/rollback", amount="2.00", reason="part")
    post(f"{moved}/rollback", amount="1.00", reason="part")
    back = post("debit", account_id=theirs, amount="1.00", currency="USD")
    post(f"{back}/rollback", reason="whole")
    post("debit", account_id=theirs, amount="999.00", currency="USD")
    hold = {"from_account_id": ours, "to_account_id": theirs, "currency": "USD", "hold": True}
    kept, taken, freed = (post("transfer", amount=amount, **hold) for amount in ("7.00", "6.00", "5.00"))
    ahead = datetime.now(UTC) + timedelta(seconds=1)
    late = post("transfer", amount="4.00", expires_at=ahead.isoformat(), **hold)
    for part in ("1.00", "2.00"):
        post(f"{kept}/capture", amount=part)
    post(f"{kept}/capture", amount="99.00")
    post(f"{taken}/capture", description="All of it")
    post(f"{freed}/capture", amount="1.00")
    post(f"{freed}/void", reason="The rest")
    wait_until(lambda: client.get(f"/transactions/{late}").json["status"] == "voided", "the hold expires")
    live_by_schedule(client, ours, theirs)
    live_abroad(client, post, ours)
    live_by_limits(client, ours, theirs)
    yen = client.post("/accounts", {"currency": "JPY"}).json["id"]
    assert client.request("PATCH", f"/api/v1/accounts/{yen}", {"status": "closed"}).status == 200


def live_abroad(client: Client, post: Callable[..., str], ours: str) -> None:
    """Exchanges at the day's rate and by a quote, and their way back in parts and as a whole."""
    assert client.post("/fx/rates", {"currency": "USD", "rate": "1.2345"}).status == 201
    money = {"amount": "3.33", "currency": "USD", "to_currency": "EUR"}
    parties = {"from_account_id": ours, "to_account_id": client.post("/accounts", {"currency": "EUR"}).json["id"]}
    exchanged = post("transfer", **parties, **money)
    for part in ("1.11", "1.00"):
        post(f"{exchanged}/rollback", amount=part, reason="part")
    quoted = post("transfer", **parties, **money, quote_id=client.post("/fx/quotes", money).json["id"])
    post(f"{quoted}/rollback", reason="whole")
    post("transfer", **parties, **{**money, "amount": "9999.00"})


def live_by_limits(client: Client, ours: str, theirs: str) -> None:
    """Limits and rules that were changed and removed, and payments that were refused, marked, and each way reviewed."""
    own = {"account_id": ours, "currency": "USD"}
    limits = [
        client.post("/limits", {**own, **said}).json["id"]
        for said in (
            {"kind": "sum", "amount": "50.00", "window": "month"},
            {"kind": "count", "count": 100, "window": "day"},
            {"kind": "hours", "hours": {"opens": "00:00", "closes": "23:59", "time_zone": "UTC"}},
            {"kind": "counterparties", "counterparties": ["outside"]},
        )
    ]
    assert client.request("PATCH", f"/api/v1/limits/{limits[0]}", {"amount": "60.00", "window": "week"}).status == 200
    for removed in limits[2:]:
        assert client.request("DELETE", f"/api/v1/limits/{removed}").status == 204
    rules = [
        client.post("/rules", {"name": effect, "expression": f"transaction.amount == {amount}", "effect": effect}).json["id"]
        for effect, amount in (("review", 101), ("flag", 102), ("deny", 103))
    ]
    assert client.request("PATCH", f"/api/v1/rules/{rules[2]}", {"name": "ünï", "enabled": False}).status == 200
    assert client.request("DELETE", f"/api/v1/rules/{rules[2]}").status == 204
    transfer = {"from_account_id": ours, "to_account_id": theirs, "currency": "USD"}

    def pay(amount: str, **more: object) -> str:
        made = client.post("/transactions/transfer", {**transfer, "amount": amount, **more}).json["id"]
        wait_until(lambda: client.get(f"/transactions/{made}").json["status"] != "pending", "it is decided")
        return str(made)

    pay("1.02")
    pay("60.01")
    approved, rejected, held, _ = [pay("1.01", hold=hold) for hold in (False, False, True, False)]
    judge = {"username": "judge", "password": "a tall ship and a star to steer by"}
    user = client.post("/auth/register", {**judge, "email": "judge@example.com"}).json["id"]
    assert client.request("PUT", f"/api/v1/users/{user}", {"role": "admin"}).status == 200
    mine, client.token = client.token, client.post("/auth/login", judge).json["access_token"]
    for act, transaction_id in (("approve", approved), ("reject", rejected), ("approve", held)):
        assert client.post(f"/transactions/{transaction_id}/{act}", {}).status == 200
    client.token = mine


def live_by_schedule(client: Client, ours: str, theirs: str) -> None:
    """Schedules that ran once, are active, paused and deleted."""
    transfer = {"from_account_id": ours, "to_account_id": theirs, "amount": "1.00", "currency": "USD", "metadata": {"ünï": "cödé"}}
    recurrence = {"rrule": "FREQ=MONTHLY;COUNT=500", "time_zone": "Europe/Prague", "start": "2030-01-31T08:00:00Z"}
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    timings: tuple[dict[str, object], ...] = ({"run_at": soon}, *({"recurrence": recurrence, "name": "Rent"},) * 3)
    once, _, paused, deleted = [client.post("/schedules", {"transfer": transfer, **timing}).json["id"] for timing in timings]
    for change in ({"amount": "2.00"}, {"status": "paused", "retry": {"attempts": 2, "delay_seconds": 60}}):
        assert client.request("PATCH", f"/api/v1/schedules/{paused}", change).status == 200
    assert client.request("DELETE", f"/api/v1/schedules/{deleted}").status == 204

    def outcomes() -> list[str]:
        return [run["status"] for run in client.get(f"/schedules/{once}/runs").json["data"]]

    wait_until(lambda: outcomes() == ["completed"], "the scheduler runs it")


def rebuild(bank: Bank, *options: str) -> tuple[int, str]:
    """Run `bank rebuild` with these options: its exit code and what it printed. A traceback fails the test."""
    result = CliRunner(env={**bank.environ, "COLUMNS": "200"}).invoke(command, options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def rows(bank: Bank) -> dict[str, list[tuple[str]]]:
    """Every row of every projection, as text."""
    return {table: sorted(query(bank.environ, f"SELECT t::text FROM {table} t")) for table in TABLES}


def schema(bank: Bank) -> list[tuple[str, ...]]:
    """All that the catalogue says of the tables that are swapped."""
    return sorted(
        query(
            bank.environ,
            """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated::text
                 FROM pg_constraint WHERE connamespace = 'public'::regnamespace
               UNION ALL SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid), ''
                 FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace
               UNION ALL SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), tgenabled::text
                 FROM pg_trigger WHERE NOT tgisinternal
               UNION ALL SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod),
                                attnotnull::text || COALESCE(pg_get_expr(adbin, adrelid), '')
                 FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
                 LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum
                WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND attnum > 0
               UNION ALL SELECT oid::regclass::text, 'options', array_to_string(reloptions, ','), ''
                 FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'""",
        ),
        key=repr,
    )


def test_a_banks_tables_are_what_its_events_say(bank: Bank) -> None:
    code, output = rebuild(bank, "--check")
    assert code == 0, output
    assert query(bank.environ, "SELECT nspname FROM pg_namespace WHERE nspname IN ('rebuild', 'replaced')") == []


# What is done to the tables, and how the comparison names it.
DAMAGE = {
    "UPDATE balances SET amount = amount + 1 WHERE user_id IS NOT NULL AND version > 1": "balances .*: amount",
    "UPDATE entries SET amount = -amount WHERE version = 1": "entries .* 1: amount",
    "DELETE FROM entries WHERE version = 2": "entries .* 2: the table does not have it",
    "UPDATE transactions SET description = 'Gift' WHERE type = 'transfer'": "transactions .*: description",
    "UPDATE daily_balances SET closing = closing - 1 WHERE day = '2020-02-29'": "daily_balances .* 2020-02-29: closing",
    "UPDATE users SET role = 'admin' WHERE username = 'alice'": "users .*: role",
    "UPDATE accounts SET name = NULL WHERE name = 'House'": "accounts .*: name",
    "UPDATE balances SET held = held - 1 WHERE held > 0": "balances .*: .*held",
    "UPDATE transactions SET captured_amount = captured_amount - 1 WHERE captured_amount > 0": "transactions .*: .*captured_amount",
    """INSERT INTO accounts (id, currency, kind, is_default, version)
       VALUES (gen_random_uuid(), 'XTS', 'outside', false, 1)""": "accounts .*: no event tells of it",
}


def test_what_is_not_as_the_events_say_is_named_and_a_swap_puts_it_right(bank: Bank, harm: Harm) -> None:
    before, shape = rows(bank), schema(bank)
    harm("; ".join(DAMAGE))
    code, output = rebuild(bank, "--check")
    assert code == 1
    assert [told for told in DAMAGE.values() if not re.search(told, output)] == [], output
    code, output = rebuild(bank, "--swap")
    assert code == 0, output
    assert rows(bank) == before
    assert schema(bank) == shape
    assert rebuild(bank, "--check")[0] == 0


def test_what_was_thrown_away_comes_back_to_the_same_bytes(bank: Bank, harm: Harm) -> None:
    before, shape = rows(bank), schema(bank)
    # What was added up of the entries that were there meanwhile.
    harm("INSERT INTO usages SELECT account_id, 'month', 0, version, 1, 1 FROM balances")
    harm("; ".join(f"DELETE FROM {table}" for table in SWAPPED))
    assert not any(rows(bank)[table] for table in SWAPPED)
    code, output = rebuild(bank, "--swap")
    assert code == 0, output
    assert rows(bank) == before
    assert schema(bank) == shape
    assert broken_books(bank.environ) == []
    assert query(bank.environ, "SELECT count(*) FROM usages") == [(0,)]


def test_a_failed_run_that_was_given_up_is_not_tried_again_because_of_a_swap(bank: Bank) -> None:
    client = bank.client(bank.log_in())
    ours, theirs = (client.post("/accounts", {"currency": "EUR"}).json["id"] for _ in range(2))
    start = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0).isoformat()
    body = {
        "transfer": {"from_account_id": ours, "to_account_id": theirs, "amount": "1.00", "currency": "EUR"},
        "recurrence": {"rrule": "FREQ=DAILY", "time_zone": "UTC", "start": start},
        "retry": {"attempts": 2, "delay_seconds": 8},
    }
    schedule = client.post("/schedules", body).json["id"]

    def outcomes() -> list[str]:
        return [run["status"] for run in client.get(f"/schedules/{schedule}/runs").json["data"]]

    def change(status: str) -> None:
        assert client.request("PATCH", f"/api/v1/schedules/{schedule}", {"status": status}).status == 200

    wait_until(lambda: outcomes() == ["retrying"], "the run fails")
    change("paused")
    wait_until(lambda: outcomes() == ["failed"], "the run is given up", 30)
    change("active")
    code, output = rebuild(bank, "--swap")
    assert code == 0, output
    assert query(bank.environ, "SELECT attempts, look_at FROM schedule_runs WHERE schedule_id = %s", schedule) == [(1, None)]
    assert client.request("DELETE", f"/api/v1/schedules/{schedule}").status == 204


def test_while_clients_post_a_swap_loses_and_doubles_nothing(bank: Bank) -> None:
    token = bank.log_in()
    customers = open_accounts(bank, token, 8, 100)
    over = Event()

    def keep_posting(number: int) -> list[str]:
        client, posted = bank.client(token), []
        while not over.is_set():
            source, target = customers[number], customers[(number + 1) % 8]
            body = {"from_account_id": source.account_id, "to_account_id": target.account_id, "amount": "0.01", "currency": "USD"}
            # A swap that holds a client up for too long would be a 503, and the same key is tried again.
            answer = client.post("/transactions/transfer", body, key=f"swap-{number}-{len(posted)}")
            assert answer.status in (202, 503), answer.body
            if answer.status == 202:
                posted.append(answer.json["id"])
        client.close()
        return posted

    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(keep_posting, number) for number in range(8)]
        try:
            for _ in range(2):
                code, output = rebuild(bank, "--swap")
                assert code == 0, output
                assert re.search(r"Writers waited for at most [0-9.]+ s", output), output
        finally:
            over.set()
        accepted = [transaction_id for future in running for transaction_id in future.result()]

    pending = "SELECT count(*) FROM transactions WHERE status = 'pending'"
    wait_until(lambda: query(bank.environ, pending) == [(0,)], "everything is final", 30)
    found = query(bank.environ, "SELECT id::text, status FROM transactions WHERE amount = 1 AND type = 'transfer'")
    assert sorted(found) == sorted((transaction_id, "completed") for transaction_id in accepted)
    assert broken_books(bank.environ) == []
    assert rebuild(bank, "--check")[0] == 0


def test_every_type_of_event_is_read() -> None:
    assert sorted(READ) == sorted(NAMES)
    assert all(any(f"type = '{name}'" in statement for statement in STATEMENTS) for name in NAMES)
    assert {name: TYPES[name].SCHEMA for name in NAMES} == READ


def test_submissions_of_the_first_version_make_the_same_rows(bank: Bank, harm: Harm) -> None:
    harm("""UPDATE events SET schema = 1, data = (data::jsonb - 'expires_at' - 'captures_id' - 'voids_id')::json
             WHERE type = 'TransactionSubmitted' AND data->>'type' <> 'transfer' AND data->>'metadata' IS NULL""")
    assert query(bank.environ, "SELECT DISTINCT schema FROM events WHERE type = 'TransactionSubmitted' ORDER BY 1") == [(1,), (2,)]
    code, output = rebuild(bank, "--check")
    assert code == 0, output
    assert broken_books(bank.environ) == []


def test_an_event_that_this_version_cannot_read_stops_the_rebuild(bank: Bank, harm: Harm) -> None:
    harm("""INSERT INTO events (stream_id, version, type, schema, data)
            VALUES ('00000000-0000-7000-8000-00000000000f', 1, 'AccountOpened', 2, '{}')""")
    try:
        for option in ("--check", "--swap"):
            code, output = rebuild(bank, option)
            assert code == 2 and "a AccountOpened of version 2" in output, output
    finally:
        harm("DELETE FROM events WHERE stream_id = '00000000-0000-7000-8000-00000000000f'")
    assert rebuild(bank, "--check")[0] == 0


def test_an_event_that_no_table_can_hold_ends_the_rebuild_without_a_traceback(bank: Bank, harm: Harm) -> None:
    harm(
        """CREATE TABLE kept AS SELECT position, data FROM events;
           UPDATE events SET data = '{"entries":[[1,"x",null]]}' WHERE type = 'TransactionCompleted'"""
    )
    try:
        code, output = rebuild(bank, "--check")
    finally:
        harm("UPDATE events e SET data = kept.data FROM kept WHERE kept.position = e.position; DROP TABLE kept")
    assert code == 2 and "cannot be brought into the tables" in output, output
    assert rebuild(bank, "--check")[0] == 0


def test_two_rebuilds_at_once_do_not_meet(bank: Bank) -> None:
    with create_app(Config.from_env(bank.environ)).app_context(), shadow.alone():
        code, output = rebuild(bank, "--check")
    assert code == 2 and "Another rebuild" in output
    assert rebuild(bank, "--check")[0] == 0


def test_a_constraint_that_does_not_hold_after_a_swap_is_named_until_it_does(bank: Bank, harm: Harm) -> None:
    stray = "00000000-0000-7000-8000-0000000000ff"
    harm(f"""INSERT INTO idempotency_keys (user_id, route, key, fingerprint, transaction_id)
             SELECT id, 'credit', 'stray', '', '{stray}' FROM users WHERE username = 'alice'""")
    for option in ("--swap", "--swap"):
        code, output = rebuild(bank, option)
        assert code == 2 and "fk_idempotency_keys_transaction_id_transactions" in output, output
    assert rebuild(bank, "--check")[0] == 0
    harm("DELETE FROM idempotency_keys WHERE key = 'stray'")
    assert rebuild(bank, "--swap")[0] == 0


def test_a_row_that_came_while_the_lanes_were_taken_is_rung_for(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[int] = []
    monkeypatch.setattr("bank.rebuild.swap.bells.ring", rung.append)
    assert rebuild(bank, "--swap")[0] == 0
    assert sorted(set(rung)) == every_lane(4)


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def test_a_rebuild_that_is_killed_goes_on_where_it_stood(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "_PART", 10)
    applied: list[int] = []
    apply = shadow.apply

    def die_after_three(connection: Connection, end: int) -> None:
        if len(applied) == 3:
            raise Killed
        apply(connection, end)
        applied.append(end)

    with monkeypatch.context() as patched:
        patched.setattr(shadow, "apply", die_after_three)
        with pytest.raises(Killed):
            rebuild(bank)
    assert query(bank.environ, "SELECT position FROM rebuild.progress") == [(applied[-1],)]
    watched: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(shadow, "apply", lambda connection, end: (watched.append(end), apply(connection, end))[1])
        code, output = rebuild(bank, "--swap")
    assert code == 0 and watched[0] == applied[-1] + 10, output
    assert rebuild(bank, "--check")[0] == 0
