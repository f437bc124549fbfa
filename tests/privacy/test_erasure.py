"""Nothing of a person is left, and the ledger is whole."""

import threading
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from bank.db import unit_of_work
from bank.proof import sealer
from tests.conftest import PASSWORD, Person
from tests.privacy.conftest import House
from tests.processes import query, wait_until
from tests.proof.conftest import KEY

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
    words = [ada.username, "ada.l@example.org", "nest egg", "roof of Ada", "Ada''s", ADDRESS]
    return Life(ada, bob, account, words)


def found(house: House, words: list[str]) -> list[tuple[str, str]]:
    """Where any of these is still in the database: the table and the word."""
    tables = [name for (name,) in query(house.environ, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert {"users", "events", "audit_logs", "logins", "blocks", "idempotency_keys"} <= {*tables}
    return [
        (table, word)
        for table in tables
        for word in words
        if query(house.environ, f"SELECT 1 FROM {table} t WHERE strpos(t::text, '{word}') > 0 LIMIT 1")
    ]


def test_what_is_personal_is_gone_everywhere_and_the_ledger_is_whole(house: House) -> None:
    life = live(house)
    assert {word for _, word in found(house, life.words)} == {*life.words}
    entries = query(house.environ, "SELECT * FROM entries ORDER BY account_id, version")
    transactions = query(house.environ, "SELECT * FROM transactions ORDER BY seq")
    answer = life.ada.request("DELETE", f"/users/{life.ada.id}/personal-data", environ_base={"REMOTE_ADDR": ADDRESS})
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
    assert house.admin.request("DELETE", f"/users/{ada.id}/personal-data").status_code == 204
    assert query(house.environ, acts, ada.id) == before
    told = "SELECT action, actor_id::text FROM audit_logs WHERE entity_id = CAST(%s AS uuid) ORDER BY id DESC LIMIT 2"
    assert query(house.environ, told, ada.id) == [("user.erased", house.admin.id), ("user.deleted", house.admin.id)]


def test_erasing_twice_is_as_good_as_once(house: House) -> None:
    ada = house.customer("ada")
    path = f"/users/{ada.id}/personal-data"
    assert house.admin.request("DELETE", path).status_code == 204
    before = query(house.environ, "SELECT count(*) FROM events") + query(house.environ, "SELECT count(*) FROM audit_logs")
    assert house.admin.request("DELETE", path).status_code == 204
    assert query(house.environ, "SELECT count(*) FROM events") + query(house.environ, "SELECT count(*) FROM audit_logs") == before


def test_a_user_who_was_deleted_before_is_erased_and_the_name_can_be_taken_again(house: House) -> None:
    ada = house.customer("ada")
    assert house.admin.request("DELETE", f"/users/{ada.id}").status_code == 204
    body = {"username": ada.username, "email": "new.ada@example.com", "password": PASSWORD}
    assert ada.client.post("/api/v1/auth/register", json=body).status_code == 409
    assert house.admin.request("DELETE", f"/users/{ada.id}/personal-data").status_code == 204
    assert ada.client.post("/api/v1/auth/register", json=body).status_code == 201


def test_who_has_money_is_not_erased(house: House) -> None:
    ada = house.customer("ada")
    account = ada.open_account(name="Ada's nest egg")["id"]
    assert ada.post("/transactions/credit", {"account_id": account, "amount": "10.00", "currency": "USD"}).status_code == 202
    house.post()
    answer = ada.request("DELETE", f"/users/{ada.id}/personal-data")
    assert (answer.status_code, answer.json["code"]) == (409, "balance_not_zero")
    assert ada.get("/auth/me").json["username"] == ada.username
    assert ada.get(f"/accounts/{account}").json["name"] == "Ada's nest egg"


def test_what_is_cached_is_erased_at_once(house: House) -> None:
    ada = house.customer("ada")
    account = ada.open_account(name="Ada's nest egg")["id"]
    for path in (f"/users/{ada.id}", f"/accounts/{account}"):
        assert house.admin.get(path).status_code == house.admin.get(path).status_code == 200
    assert house.admin.request("DELETE", f"/users/{ada.id}/personal-data").status_code == 204
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
    erasing = threading.Thread(target=lambda: answers.append(house.admin.request("DELETE", f"/users/{ada.id}/personal-data").status_code))
    with house.app.app_context(), unit_of_work() as session:
        locked = text("SELECT position FROM followers WHERE name = 'seal' FOR UPDATE")
        position = session.execute(locked).scalar_one()
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
    "UPDATE events SET actor_id = NULL, trace_id = 'x' WHERE stream_id = '{ada}'",
    "UPDATE events SET version = version + 10 WHERE stream_id = '{ada}'",
    "UPDATE events SET data = jsonb_set(data::jsonb, '{{username}}', '\"_erased-{bob}\"') WHERE stream_id = '{bob}'",
    "UPDATE events SET data = jsonb_set(data::jsonb, '{{name}}', 'null') WHERE stream_id = '{account}'",
    "UPDATE audit_logs SET address = '192.0.2.1' WHERE actor_id = '{ada}'",
    "UPDATE audit_logs SET action = 'user.changed' WHERE actor_id = '{ada}'",
    "UPDATE audit_logs SET details = '{{}}' WHERE actor_id = '{ada}' AND action = 'account.changed'",
    "UPDATE audit_logs SET address = NULL WHERE actor_id = '{bob}'",
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
    assert house.admin.request("DELETE", f"/users/{ada.id}/personal-data").status_code == 204
    return {"ada": ada.id, "bob": bob.id, "account": account}


@pytest.mark.parametrize("statement", REFUSED)
def test_the_database_lets_nothing_else_be_written_over_the_log(house: House, erased: dict[str, str], statement: str) -> None:
    with pytest.raises(Exception, match="append-only"):
        query(house.environ, statement.format(**erased))


def test_an_event_that_was_erased_past_the_bank_is_found(house: House, erased: dict[str, str]) -> None:
    """By who gets past the triggers: of a user who was not erased, and with another hash than was sealed."""
    house.seal()
    assert house.run("verify").exit_code == 0
    position = query(house.environ, "SELECT min(position) FROM events WHERE stream_id = CAST(%s AS uuid)", erased["bob"])[0][0]
    house.harm(f"INSERT INTO erased_events VALUES ({position}, repeat('0', 64))")
    done = house.run("verify")
    assert done.exit_code == 1, done.output
    assert f"event {position} is not what was sealed" in done.stdout
    assert f"Event {position} is told to be erased, and is of nobody who was." in done.stdout
    house.harm(f"DELETE FROM erased_events WHERE position = {position}")
    assert house.run("verify").exit_code == 0
    # And what stands for what was erased is as good as sealed.
    house.harm("CREATE TABLE kept AS SELECT * FROM erased_events; DELETE FROM erased_events")
    try:
        assert "is not what was sealed" in house.run("verify").stdout
    finally:
        house.harm("INSERT INTO erased_events SELECT * FROM kept; DROP TABLE kept")
    assert house.run("verify").exit_code == 0
