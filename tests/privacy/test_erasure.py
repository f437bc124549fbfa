"""Nothing of a person is left, and the ledger is whole."""

import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.db import unit_of_work
from bank.proof import sealer
from bank.rebuild import shadow
from bank.replay import run
from bank.replay.state import State
from bank.schedules import service as schedules
from tests.conftest import PASSWORD, Person
from tests.privacy.conftest import House
from tests.processes import query, wait_until
from tests.proof.conftest import KEY, last_position

ADDRESS = "192.0.2.77"
AGENT = "Ada's own browser"


@dataclass(frozen=True)
class Life:
    """A customer who did all that leaves something of a person, and whom they did it with; what they called things."""

    ada: Person
    bob: Person
    account: str
    words: list[str]


def live(house: House) -> Life:
    """Part of it is sealed, and part of it not yet."""
    ada, bob = house.customer("ada"), house.customer("bob")
    from_there = {"environ_base": {"REMOTE_ADDR": ADDRESS}}
    account = ada.open_account(name="Ada's nest egg")["id"]
    theirs = bob.open_account(name="Bob's shop")["id"]
    ada.patch(f"/accounts/{account}", {"name": "For the roof of Ada"}, **from_there)
    assert ada.request("PUT", f"/users/{ada.id}", json={"email": "ada.l@example.org"}, **from_there).status_code == 200
    house.seal()
    login = {"username": ada.username, "password": PASSWORD}
    assert ada.client.post("/api/v1/auth/login", json=login, headers={"User-Agent": AGENT}, **from_there).status_code == 200
    wrong = {**login, "password": "not that one at all"}
    assert ada.client.post("/api/v1/auth/login", json=wrong, **from_there).status_code == 401
    assert ada.post("/transactions/credit", {"account_id": account, "amount": "10.00", "currency": "USD"}, **from_there).status_code == 202
    paid = {"from_account_id": account, "to_account_id": theirs, "amount": "10.00", "currency": "USD", "description": "For a door"}
    house.post()
    assert ada.post("/transactions/transfer", paid).status_code == 202
    schedule = {"transfer": paid, "run_at": "2099-01-31T08:00:00Z", "name": "Ada's yearly door"}
    made = ada.post("/schedules", schedule, headers={"Idempotency-Key": f"door-{ada.id}"})
    assert made.status_code == 201
    assert ada.patch(f"/schedules/{made.json['id']}", {"name": "Ada's door"}).status_code == 200
    house.post()
    words = [ada.username, "ada.l@example.org", "nest egg", "roof of Ada", "Ada's", AGENT]
    return Life(ada, bob, account, words)


def order(account: str, theirs: str) -> dict[str, Any]:
    """A schedule that pays from one account to the other, long after this."""
    transfer = {"from_account_id": account, "to_account_id": theirs, "amount": "1.00", "currency": "USD"}
    return {"transfer": transfer, "run_at": "2099-01-31T08:00:00Z"}


def erase(house: House, who: Person) -> TestResponse:
    """By the admin."""
    return house.admin.post(f"/users/{who.id}/erasure", {"current_password": PASSWORD})


def found(house: House, words: list[str]) -> list[tuple[str, str]]:
    """Where any of these is still in the database, in any schema and in bytes too: the table and the word."""
    tables = query(house.environ, "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('public', 'rebuild')")
    held = []
    for (table,) in tables:
        for row in query(house.environ, f"SELECT * FROM {table}"):
            text = str(
                [
                    zlib.decompress(bytes(value))
                    if table == "public.snapshots" and isinstance(value, memoryview)
                    else bytes(value)
                    if isinstance(value, memoryview)
                    else value
                    for value in row
                ]
            )
            held += [(table, word) for word in words if word in text or repr(word)[1:-1] in text]
    assert {"public.users", "public.events", "public.audit_logs", "public.idempotency_keys"} <= {table for (table,) in tables}
    return held


def test_what_is_personal_is_gone_everywhere_and_the_ledger_is_whole(house: House) -> None:
    life = live(house)
    assert {word for _, word in found(house, life.words)} == {*life.words}
    entries = query(house.environ, "SELECT * FROM entries ORDER BY account_id, version")
    transactions = query(house.environ, "SELECT * FROM transactions ORDER BY seq")
    answer = life.ada.post(f"/users/{life.ada.id}/erasure", {"current_password": PASSWORD}, environ_base={"REMOTE_ADDR": ADDRESS})
    assert (answer.status_code, answer.data) == (204, b"")

    assert found(house, life.words) == []
    assert query(house.environ, "SELECT * FROM entries ORDER BY account_id, version") == entries
    assert query(house.environ, "SELECT * FROM transactions ORDER BY seq") == transactions
    # The side that was paid reads what it read before.
    (paid,) = [row for row in life.bob.get("/transactions/history").json["data"] if row["type"] == "transfer"]
    assert (paid["description"], paid["from_user_id"], paid["amount"]) == ("For a door", life.ada.id, "10.00")
    user = house.admin.get(f"/users/{life.ada.id}").json
    assert (user["username"], user["email"], user["status"]) == (f"_erased-{life.ada.id}", f"{life.ada.id}@erased", "deleted")
    account = house.admin.get(f"/accounts/{life.account}").json
    assert (account["name"], account["status"]) == (None, "closed")
    assert life.ada.get("/auth/me").status_code == 401

    # Sealed or not, every event is there and can be read, and the tables are what these tell.
    unsealed = house.run("verify")
    assert unsealed.exit_code == 0, unsealed.output
    assert "what was personal has been erased" in unsealed.stdout
    house.seal()
    for command, options in (("verify", ()), ("check", ()), ("rebuild", ("--check",))):
        done = house.run(command, *options)
        assert done.exit_code == 0, done.output


def test_who_did_what_stays(house: House) -> None:
    ada = house.customer("ada")
    acts = "SELECT action, entity_id::text FROM audit_logs WHERE actor_id = CAST(%s AS uuid) ORDER BY id"
    ada.open_account()
    before = query(house.environ, acts, ada.id)
    assert erase(house, ada).status_code == 204
    assert query(house.environ, acts, ada.id) == before
    told = "SELECT action, actor_id::text FROM audit_logs WHERE entity_id = CAST(%s AS uuid) ORDER BY id DESC LIMIT 2"
    assert query(house.environ, told, ada.id) == [("user.erased", house.admin.id), ("user.deleted", house.admin.id)]


def test_erasing_twice_is_as_good_as_once(house: House) -> None:
    ada = house.customer("ada")
    assert erase(house, ada).status_code == 204
    before = query(house.environ, "SELECT count(*) FROM events") + query(house.environ, "SELECT count(*) FROM audit_logs")
    assert erase(house, ada).status_code == 204
    assert query(house.environ, "SELECT count(*) FROM events") + query(house.environ, "SELECT count(*) FROM audit_logs") == before


def test_a_user_who_was_deleted_before_is_erased_and_the_name_can_be_taken_again(house: House) -> None:
    ada = house.customer("ada")
    assert house.admin.request("DELETE", f"/users/{ada.id}").status_code == 204
    body = {"username": ada.username, "email": "new.ada@example.com", "password": PASSWORD}
    assert ada.client.post("/api/v1/auth/register", json=body).status_code == 409
    assert erase(house, ada).status_code == 204
    assert ada.client.post("/api/v1/auth/register", json=body).status_code == 201


def test_who_has_money_is_not_erased(house: House) -> None:
    ada = house.customer("ada")
    account = ada.open_account(name="Ada's nest egg")["id"]
    assert ada.post("/transactions/credit", {"account_id": account, "amount": "10.00", "currency": "USD"}).status_code == 202
    house.post()
    answer = ada.post(f"/users/{ada.id}/erasure", {"current_password": PASSWORD})
    assert (answer.status_code, answer.json["code"]) == (409, "balance_not_zero")
    assert ada.get("/auth/me").json["username"] == ada.username
    assert ada.get(f"/accounts/{account}").json["name"] == "Ada's nest egg"


def test_who_is_to_receive_what_is_held_is_not_erased(house: House) -> None:
    ada, bob = house.customer("ada"), house.customer("bob")
    account, theirs = (who.open_account()["id"] for who in (ada, bob))
    assert bob.post("/transactions/credit", {"account_id": theirs, "amount": "10.00", "currency": "USD"}).status_code == 202
    house.post()
    hold = {"from_account_id": theirs, "to_account_id": account, "amount": "10.00", "currency": "USD", "hold": True}
    held = bob.post("/transactions/transfer", hold).json["id"]
    house.post()
    for _ in range(2):
        assert erase(house, ada).json["code"] == "balance_not_zero"
        assert house.admin.request("DELETE", f"/users/{ada.id}").json["code"] == "balance_not_zero"
    assert ada.post(f"/transactions/{held}/void", {}).status_code == 202
    house.post()
    assert erase(house, ada).status_code == 204


def test_what_is_cached_is_erased_at_once(house: House) -> None:
    ada = house.customer("ada")
    account = ada.open_account(name="Ada's nest egg")["id"]
    for path in (f"/users/{ada.id}", f"/accounts/{account}"):
        assert house.admin.get(path).status_code == house.admin.get(path).status_code == 200
    assert erase(house, ada).status_code == 204
    other = house.customer("teller")
    with house.app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE users SET role = 'auditor' WHERE id = CAST(:id AS uuid)"), {"id": other.id})
    assert other.get(f"/users/{ada.id}").json["username"] == f"_erased-{ada.id}"
    assert other.get(f"/accounts/{account}").json["name"] is None


def test_what_the_sealer_is_reading_is_not_erased_under_its_hands(house: House) -> None:
    ada = house.customer("ada")
    house.seal()
    assert house.admin.request("DELETE", f"/users/{ada.id}").status_code == 204
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    answers: list[int] = []
    erasing = threading.Thread(target=lambda: answers.append(erase(house, ada).status_code))
    with house.app.app_context(), unit_of_work() as session:
        sealer.hold(session)
        position = session.execute(text("SELECT position FROM followers WHERE name = 'seal'")).scalar_one()
        erasing.start()
        wait_until(lambda: query(house.environ, waiting)[0][0] > 0, "the erasure waits for the sealer", 20)
        # It has read the name, and seals it now.
        last = session.execute(text("SELECT max(position) FROM events")).scalar_one()
        reached = sealer.Sealer(KEY).take(session, position, last)
        session.execute(text("UPDATE followers SET position = :reached WHERE name = 'seal'"), {"reached": reached})
    erasing.join(20)
    assert answers == [204]
    assert found(house, [ada.username]) == []
    house.seal()
    done = house.run("verify")
    assert done.exit_code == 0, done.output


# What the bank's own role may not write over an event or a row of the audit log of Ada, who is erased, or of Bob, who is not.
REFUSED = [
    "UPDATE events SET data = '{{}}' WHERE stream_id = '{ada}'",
    "UPDATE events SET data = jsonb_set(data::jsonb, '{{role}}', '\"admin\"') WHERE stream_id = '{ada}'",
    "UPDATE events SET data = jsonb_set(data::jsonb, '{{username}}', '\"eve\"') WHERE stream_id = '{ada}'",
    "UPDATE events SET data = CAST('{{\"role\": \"admin\", ' || substr(data::text, 2) AS json) WHERE stream_id = '{ada}'",
    "UPDATE events SET actor_id = NULL, trace_id = 'x' WHERE stream_id = '{ada}'",
    "UPDATE events SET version = version + 10 WHERE stream_id = '{ada}'",
    "UPDATE events SET data = jsonb_set(data::jsonb, '{{username}}', '\"_erased-{bob}\"') WHERE stream_id = '{bob}'",
    "UPDATE events SET data = jsonb_set(data::jsonb, '{{name}}', 'null') WHERE stream_id = '{account}'",
    "UPDATE audit_logs SET address = '192.0.2.1' WHERE actor_id = '{ada}'",
    "UPDATE audit_logs SET action = 'user.changed' WHERE actor_id = '{ada}'",
    "UPDATE audit_logs SET address = NULL WHERE actor_id = '{ada}'",
    "UPDATE audit_logs SET details = '{{}}' WHERE actor_id = '{ada}' AND action = 'account.changed'",
    "UPDATE audit_logs SET details = jsonb_set(details::jsonb, '{{name}}', 'null') WHERE entity_id = '{account}'",
    "UPDATE erased_events SET commitment = repeat('0', 64)",
    "DELETE FROM erased_events",
    "DELETE FROM events WHERE stream_id = '{ada}'",
    "DELETE FROM audit_logs WHERE actor_id = '{ada}'",
    "TRUNCATE events",
    "TRUNCATE audit_logs",
]


@pytest.fixture(scope="module")
def erased(house: House) -> dict[str, str]:
    """Ada, who is erased, and Bob with an account, by id."""
    ada, bob = house.customer("ada"), house.customer("bob")
    first = ada.open_account(name="Ada's nest egg")["id"]
    assert ada.patch(f"/accounts/{first}", {"name": "Ada's other one"}).status_code == 200
    account = bob.open_account(name="Bob's shop")["id"]
    assert bob.patch(f"/accounts/{account}", {"name": "Bob's other shop"}).status_code == 200
    house.seal()
    assert erase(house, ada).status_code == 204
    return {"ada": ada.id, "bob": bob.id, "account": account}


@pytest.mark.parametrize("statement", REFUSED)
def test_the_database_lets_nothing_else_be_written_over_the_log(house: House, erased: dict[str, str], statement: str) -> None:
    with pytest.raises(Exception, match="append-only"):
        query(house.environ, statement.format(**erased))


def test_an_erasure_that_was_none_is_found(house: House, erased: dict[str, str]) -> None:
    """What is done by who gets past the triggers: to somebody who was not erased, and to what an erasure left."""
    house.seal()
    assert house.run("verify").exit_code == 0
    of_bob, of_ada = (
        query(house.environ, "SELECT min(position) FROM events WHERE stream_id = CAST(%s AS uuid)", erased[name])[0][0]
        for name in ("bob", "ada")
    )
    house.harm("CREATE TABLE kept AS SELECT * FROM erased_events; CREATE TABLE kept_events AS SELECT * FROM events")
    try:
        for harm, fault in {
            f"INSERT INTO erased_events VALUES ({of_bob}, repeat('0', 64))": f"event {of_bob} is not what was sealed",
            f"INSERT INTO erased_events VALUES ({of_bob}, repeat('1', 64))": f"Event {of_bob} is kept as erased, and no erasure tells",
            "DELETE FROM erased_events": "is not what was sealed",
            f"""UPDATE events SET data = jsonb_set(data::jsonb, '{{role}}', '"admin"')
                 WHERE position = {of_ada}""": f"Event {of_ada} is not what its erasure left of it.",
        }.items():
            house.harm(harm)
            done = house.run("verify")
            assert done.exit_code == 1, harm
            assert fault in done.stdout
            house.harm(
                """DELETE FROM erased_events; INSERT INTO erased_events SELECT * FROM kept;
                   UPDATE events e SET data = k.data FROM kept_events k WHERE k.position = e.position AND k.data::text <> e.data::text"""
            )
            assert house.run("verify").exit_code == 0
    finally:
        house.harm("DROP TABLE kept; DROP TABLE kept_events")


def test_tables_that_were_made_again_before_have_no_names_either(house: House) -> None:
    ada = house.customer("ada")
    account = ada.open_account(name=f"Egg of {ada.username}")["id"]
    assert house.run("rebuild").exit_code == 0
    # A rebuild that is at work keeps what it has made, and takes in that it is erased; and that the name is somebody else's then.
    with house.app.app_context(), shadow.alone():
        assert erase(house, ada).status_code == 204
    assert query(house.environ, "SELECT count(*) FROM rebuild.users WHERE username = %s", ada.username) == [(1,)]
    body = {"username": ada.username, "email": f"{ada.username}@example.com", "password": PASSWORD}
    again = ada.client.post("/api/v1/auth/register", json=body)
    assert again.status_code == 201
    swapped = house.run("rebuild", "--swap")
    assert swapped.exit_code == 0, swapped.output
    assert query(house.environ, "SELECT id::text FROM users WHERE username = %s", ada.username) == [(again.json["id"],)]
    assert house.admin.get(f"/accounts/{account}").json["name"] is None
    user = house.admin.get(f"/users/{ada.id}").json
    assert (user["username"], user["status"]) == (f"_erased-{ada.id}", "deleted")


def test_what_a_rebuild_left_behind_is_thrown_away(house: House) -> None:
    ada, bob = house.customer("ada"), house.customer("bob")
    assert house.run("rebuild").exit_code == 0
    query(house.environ, "CREATE SCHEMA replaced; CREATE TABLE replaced.users AS SELECT * FROM users")
    assert erase(house, ada).status_code == 204
    assert query(house.environ, "SELECT to_regclass('rebuild.users'), to_regclass('replaced.users')") == [(None, None)]
    # But not while somebody reads it, which is nobody's fault but has an end.
    assert house.run("rebuild").exit_code == 0
    with house.app.app_context(), unit_of_work() as session, ThreadPoolExecutor(1) as pool:
        session.execute(text("SELECT count(*) FROM rebuild.users"))
        assert pool.submit(erase, house, bob).result().status_code == 204
    assert query(house.environ, "SELECT to_regclass('rebuild.users') IS NULL") == [(False,)]
    with house.app.app_context(), shadow.alone():
        shadow.drop_if_outdated()
    assert query(house.environ, "SELECT to_regclass('rebuild.users')") == [(None,)]


def test_a_replay_has_no_names_of_who_was_erased(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_SNAPSHOT_EVERY", 1)
    ada = house.customer("ada")
    ada.open_account(name=f"Egg of {ada.username}")
    with house.app.app_context():
        run.replay(run.goal(None), lambda position: None)
    assert query(house.environ, "SELECT count(*) FROM snapshots")[0][0] > 0
    assert [table for table, _ in found(house, [ada.username]) if table == "public.snapshots"]
    # One that is under way when she is erased, and is done afterwards.
    with house.app.app_context():
        reading = run._Reading(State(), 0)
        reading.read(last_position(house.app), None)
        assert erase(house, ada).status_code == 204
        run._keep(reading)
        assert found(house, [ada.username]) == []
        state = run.replay(run.goal(None), lambda position: None)
        assert ada.username not in str(state.accounts)
        # And a state from before goes on to one without.
        assert ada.username in str(reading.state.accounts)
        reading.read(last_position(house.app), None)
        assert ada.username not in str(reading.state.accounts)


def test_what_an_admin_made_and_imported_for_somebody_is_erased_too(house: House) -> None:
    ada, bob = house.customer("ada"), house.customer("bob")
    account, theirs = (who.open_account()["id"] for who in (ada, bob))
    body = {**order(account, theirs), "name": "Ada's yearly door"}
    assert house.admin.post("/schedules", body, headers={"Idempotency-Key": "for-ada"}).status_code == 201
    query(
        house.environ,
        """INSERT INTO imports (id, content, options, size, name, owner_id) VALUES (gen_random_uuid(), '1', '2', 1, 'ada-lovelace.csv', %s);
           INSERT INTO import_accounts (owner_id, name, account_id) VALUES (%s, 'Lovelace household', %s)""",
        ada.id, ada.id, account,
    )  # fmt: skip
    words = ["yearly door", "ada-lovelace.csv", "Lovelace household"]
    assert {word for _, word in found(house, words)} == {*words}
    assert erase(house, ada).status_code == 204
    assert found(house, words) == []


def test_who_asks_for_themselves_confirms_it_and_has_nothing_to_hide(house: House) -> None:
    ada = house.customer("ada")
    account = ada.open_account()["id"]
    path = f"/users/{ada.id}/erasure"
    for who in (ada, house.admin):
        for body in ({}, {"current_password": "not that one at all"}):
            answer = who.post(path, body)
            assert (answer.status_code, [error["pointer"] for error in answer.json["errors"]]) == (422, ["/current_password"])
    assert house.admin.patch(f"/accounts/{account}", {"status": "frozen"}).status_code == 200
    assert ada.post(path, {"current_password": PASSWORD}).json["code"] == "conflict"
    assert ada.request("DELETE", f"/users/{ada.id}").json["code"] == "conflict"
    assert house.admin.post(f"/users/{house.admin.id}/erasure", {"current_password": PASSWORD}).json["code"] == "conflict"
    assert ada.get("/auth/me").json["username"] == ada.username
    assert erase(house, ada).status_code == 204


def test_a_schedule_that_comes_too_late_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, bob = house.customer("ada"), house.customer("bob")
    account, theirs = (who.open_account()["id"] for who in (ada, bob))
    body = {**order(account, theirs), "name": "Ada's yearly door"}
    first = ada.post("/schedules", body)
    assert first.status_code == 201
    # Past the guard, and not yet in the unit of work.
    create = schedules.create

    def late(*given: Any) -> Any:
        assert erase(house, ada).status_code == 204
        return create(*given)

    monkeypatch.setattr(schedules, "create", late)
    answer = ada.post("/schedules", body)
    assert (answer.status_code, answer.json["code"]) == (409, "conflict")
    assert found(house, ["yearly door"]) == []
    assert house.admin.get(f"/schedules/{first.json['id']}").json["status"] == "deleted"
    assert house.admin.patch(f"/schedules/{first.json['id']}", {"name": "Again"}).status_code == 409


@pytest.mark.parametrize("act", ["deleted", "erased"])
def test_a_tick_at_work_on_a_schedule_and_the_end_of_its_user_do_not_wait_for_each_other(house: House, act: str) -> None:
    ada, bob = house.customer("ada"), house.customer("bob")
    account, theirs = (who.open_account()["id"] for who in (ada, bob))
    body = order(account, theirs)
    schedule = ada.post("/schedules", body).json["id"]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    answers: list[int] = []

    def end() -> None:
        done = erase(house, ada) if act == "erased" else house.admin.request("DELETE", f"/users/{ada.id}")
        answers.append(done.status_code)

    ending = threading.Thread(target=end)
    with house.app.app_context(), unit_of_work() as session:
        session.execute(text("SELECT FROM schedules WHERE id = CAST(:id AS uuid) FOR NO KEY UPDATE"), {"id": schedule})
        ending.start()
        wait_until(lambda: query(house.environ, waiting)[0][0] > 0, "the user's end waits for the tick", 20)
        # As a transaction does that refers to them.
        session.execute(text("SELECT FROM users WHERE id = CAST(:id AS uuid) FOR KEY SHARE"), {"id": ada.id})
    ending.join(20)
    assert answers == [204]
