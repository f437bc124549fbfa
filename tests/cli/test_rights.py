"""The bank on tables that belong to another role: it does all that it does, and cannot lift what the schema forbids."""

import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import make_url

from tests.processes import ADMIN_PASSWORD, ROOT, Bank, administer, empty_redis, query, wait_until

JSON = {"Content-Type": "application/json"}

AsSuperuser = Callable[[str], str]


@dataclass(frozen=True)
class Apart:
    """A database with two roles, and the environments of who owns it and of all others."""

    everybody: dict[str, str]
    owner: dict[str, str]

    @property
    def url(self) -> str:
        return self.everybody["DATABASE_URL"]

    @property
    def owner_url(self) -> str:
        return self.owner["DATABASE_OWNER_URL"]

    def run(self, *arguments: str) -> str:
        """What a command of the bank says that the owner's URL is given to. Fails where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "bank", *arguments], env=self.owner, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def of(url: str, role: str, database: str) -> str:
    return make_url(url).set(username=role, password="of-a-test", database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def apart(environ: Mapping[str, str], as_superuser: AsSuperuser) -> Iterator[Apart]:
    name, url = f"apart_{secrets.token_hex(4)}", environ["DATABASE_URL"]
    # A name that has to be quoted.
    teller, owner = f"{name}-teller", f"{name}_owner"
    root = {"DATABASE_URL": as_superuser(url)}
    for role in (teller, owner):
        administer(root, f"""CREATE ROLE "{role}" LOGIN PASSWORD 'of-a-test'""")
    administer(root, f"CREATE DATABASE {name} OWNER {owner}")
    everybody = {**environ, "DATABASE_URL": of(url, teller, name), "REDIS_URL": empty_redis(environ)}
    told = Apart(everybody, {**everybody, "DATABASE_OWNER_URL": of(url, owner, name), "BANK_ADMIN_PASSWORD": ADMIN_PASSWORD})
    try:
        told.run("migrate")
        yield told
    finally:
        administer(root, f"DROP DATABASE {name} WITH (FORCE)")
        for role in (teller, owner):
            administer(root, f'DROP ROLE "{role}"')


@pytest.fixture(scope="module")
def bank(apart: Apart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    told = {**apart.everybody, "BANK_SEAL_KEY": secrets.token_hex(32)}
    with Bank(told, tmp_path_factory.mktemp("apart"), web_workers=1, batch_worker=True) as bank:
        bank.add("follower", "-m", "bank", "follow")
        yield bank


def move_money(bank: Bank) -> None:
    """Ask for a thing of each kind, as an administrator."""
    client = bank.client(bank.log_in())
    one, other = (client.post("/accounts", {"currency": "USD"}).json["id"] for _ in range(2))
    money = {"amount": "10", "currency": "USD"}
    assert client.post("/transactions/credit", {"account_id": one, **money}, Prefer="wait=20").status == 201
    transfer = {"from_account_id": one, "to_account_id": other, "amount": "1", "currency": "USD"}
    made = client.post("/transactions/transfer", transfer, key=secrets.token_hex(8), Prefer="wait=20")
    assert (made.status, made.json["status"]) == (201, "completed")
    assert client.post(f"/transactions/{made.json['id']}/rollback", {"reason": "a mistake"}, Prefer="wait=20").status == 201
    held = client.post("/transactions/transfer", {**transfer, "hold": True}, Prefer="wait=20")
    assert client.post(f"/transactions/{held.json['id']}/capture", {}, Prefer="wait=20").status == 201, held.body
    batch = client.post("/transactions/batch", {"mode": "atomic", "transactions": [{"type": "transfer", **transfer}]})
    assert batch.status == 202, batch.body
    wait_until(lambda: client.get(f"/transactions/batch/{batch.json['id']}").json["status"] == "completed", "the batch is posted")
    assert client.post("/fx/rates", {"currency": "JPY", "rate": "170.5"}).status == 201
    assert client.get("/balances/current").status == 200
    assert client.get("/audit-logs").json["data"]
    name = f"ada-{secrets.token_hex(4)}"
    password = secrets.token_hex(16)
    ada = client.post("/auth/register", {"username": name, "email": f"{name}@example.com", "password": password}).json["id"]
    opened = client.post("/accounts", {"currency": "USD", "user_id": ada, "name": "Nest egg"}).json["id"]
    assert client.request("PATCH", f"/api/v1/accounts/{opened}", data=b'{"name": "Roof"}', headers=JSON).status == 200
    erased = client.post(f"/users/{ada}/erasure", {"current_password": ADMIN_PASSWORD})
    assert erased.status == 204, erased.body
    client.close()


def test_the_bank_does_on_anothers_tables_what_it_does_on_its_own(
    bank: Bank, apart: Apart, as_superuser: AsSuperuser, tmp_path: Path
) -> None:
    move_money(bank)
    wait_until(lambda: query(apart.everybody, "SELECT 1 FROM blocks"), "the log is sealed", 60)
    backup = str(tmp_path / "backup")
    # What a rebuild leaves behind is its owner's, and no part of a backup.
    apart.run("rebuild")
    for command in (["check"], ["backup", backup]):
        done = subprocess.run(
            [sys.executable, "-m", "bank", *command], env=bank.environ, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    # And back, into a database that is empty.
    name = f"back_{secrets.token_hex(4)}"
    teller, owner = (make_url(url).set(database=name).render_as_string(hide_password=False) for url in (apart.url, apart.owner_url))
    root = {"DATABASE_URL": as_superuser(apart.url)}
    administer(root, f"CREATE DATABASE {name} OWNER {make_url(owner).username}")
    try:
        back = Apart({**bank.environ, "DATABASE_URL": teller}, {**bank.environ, "DATABASE_URL": teller, "DATABASE_OWNER_URL": owner})
        key = query(apart.everybody, "SELECT encode(public_key, 'hex') FROM blocks LIMIT 1")[0][0]
        back.run("restore", backup, "--key", key)
        assert query(back.everybody, "SELECT count(*) > 0 FROM entries") == [(True,)]
        assert refused(back, "DELETE FROM entries") and refused(back, "CREATE TABLE mine (id int)")
    finally:
        administer(root, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_rebuild_by_the_owner_leaves_the_bank_its_rights(bank: Bank, apart: Apart) -> None:
    assert "Swapped" in apart.run("rebuild", "--swap")
    move_money(bank)
    # Those of tables that were made anew too.
    assert refused(apart, "DELETE FROM entries") and refused(apart, "UPDATE entries SET amount = 0")
    assert refused(apart, "UPDATE events SET type = 'X'") and refused(apart, "UPDATE audit_logs SET address = NULL")
    apart.run("migrate")
    move_money(bank)


def test_rights_that_a_rebuild_was_killed_before_are_given_by_the_next(apart: Apart) -> None:
    query({"DATABASE_URL": apart.owner_url}, f'GRANT DELETE ON entries TO "{make_url(apart.url).username}"')
    apart.run("rebuild")
    assert refused(apart, "DELETE FROM entries")


def test_a_table_that_takes_anothers_place_can_be_written_from_that_moment_on(apart: Apart) -> None:
    owner = {"DATABASE_URL": apart.owner_url}
    query(owner, "CREATE SCHEMA shadowed; CREATE TABLE shadowed.entries (LIKE entries)")
    role = make_url(apart.url).username
    rights = query(
        owner,
        "SELECT has_table_privilege(%s, 'shadowed.entries', 'SELECT') AND has_table_privilege(%s, 'shadowed.entries', 'INSERT')",
        role,
        role,
    )
    query(owner, "DROP SCHEMA shadowed CASCADE")
    assert rights == [(True,)]


def refused(apart: Apart, statement: str) -> bool:
    """Whether the bank's role has no right to it, whatever a trigger says."""
    try:
        query(apart.everybody, statement)
    except InsufficientPrivilege:
        return True
    return False


APPEND_ONLY = ("events", "entries", "audit_logs", "blocks", "fx_rates")


@pytest.mark.parametrize(
    "statement",
    [
        *(
            statement.format(table=table)
            for table in APPEND_ONLY
            for statement in (
                "ALTER TABLE {table} DISABLE TRIGGER ALL",
                "DROP TRIGGER {table}_append_only ON {table}",
                "DROP TABLE {table} CASCADE",
                "TRUNCATE {table} CASCADE",
                "DELETE FROM {table}",
            )
        ),
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TABLE mine (id int)",
        "SET session_replication_role = replica",
        "TRUNCATE users CASCADE",
        "ALTER TABLE users ADD COLUMN mine int",
        "UPDATE alembic_version SET version_num = '0001'",
    ],
)
def test_what_the_schema_forbids_the_banks_role_cannot_lift(apart: Apart, statement: str) -> None:
    assert refused(apart, statement)


def test_a_database_of_one_role_is_given_to_another_as_the_docs_say(
    environ: Mapping[str, str], as_superuser: AsSuperuser, tmp_path: Path
) -> None:
    (script,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "security.md").read_text(), re.DOTALL)
    name, url = f"together_{secrets.token_hex(4)}", environ["DATABASE_URL"]
    root = {"DATABASE_URL": as_superuser(url)}
    administer(root, f"CREATE ROLE {name} LOGIN PASSWORD 'of-a-test'")
    administer(root, f"CREATE DATABASE {name} OWNER {name}")
    everybody = {**environ, "DATABASE_URL": of(url, name, name)}
    told = Apart(everybody, {**everybody, "DATABASE_OWNER_URL": of(url, f"{name}_owner", name), "BANK_ADMIN_PASSWORD": ADMIN_PASSWORD})
    try:
        Apart(everybody, everybody).run("migrate")
        # The names are those of a bank that is called so.
        own = re.sub(r"\bbank(_owner)?\b", rf"{name}\1", script).replace("'…'", "'of-a-test'")
        query({"DATABASE_URL": as_superuser(of(url, name, name))}, own)
        assert refused(told, "SELECT FROM users")
        told.run("migrate")
        assert query(everybody, "SELECT count(*) FROM users") == [(1,)]
        assert refused(told, "ALTER TABLE events DISABLE TRIGGER ALL")
    finally:
        administer(root, f"DROP DATABASE {name} WITH (FORCE)")
        for role in (name, f"{name}_owner"):
            administer(root, f"DROP ROLE IF EXISTS {role}")
