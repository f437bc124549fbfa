"""`bank backup` and `bank restore`: what comes back is the bank that there was."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bank import create_app
from bank.cli import main
from bank.config import Config
from bank.processing.processor import drain_once
from bank.proof import keys
from tests.books import Books, small_books
from tests.processes import administer, query
from tests.proof.conftest import SEED, last_position, seal_up_to


@pytest.fixture(scope="module")
def books(environ: Mapping[str, str], as_superuser: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    with small_books({**environ, "BANK_SEAL_KEY": SEED}, as_superuser, tmp_path_factory.mktemp("books")) as made:
        seal_up_to(made.app, last_position(made.app))
        yield made


@pytest.fixture
def elsewhere(books: Books) -> Iterator[dict[str, str]]:
    """An empty database."""
    name = f"restored_{secrets.token_hex(6)}"
    administer(books.environ, f"CREATE DATABASE {name}")
    yield {**books.environ, "DATABASE_URL": books.environ["DATABASE_URL"].rpartition("/")[0] + f"/{name}"}
    administer(books.environ, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND usename = current_user")
    administer(books.environ, f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def backup(books: Books, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("backups") / "tonight"
    done = bank(books.environ, "backup", directory)
    assert done.exit_code == 0, done.output
    assert f"Sealed up to event {last_position(books.app)}" in done.stdout
    return directory


def bank(environ: Mapping[str, str], *arguments: str | Path) -> Result:
    return CliRunner(env={**environ, "COLUMNS": "250"}).invoke(main, [str(each) for each in arguments])


def everything(environ: Mapping[str, str]) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, by table."""
    tables = query(environ, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1")
    return {name: query(environ, f'SELECT t::text FROM "{name}" t ORDER BY 1') for (name,) in tables if name != "lanes"}


def test_what_is_restored_is_the_bank_that_was_backed_up(books: Books, backup: Path, elsewhere: dict[str, str]) -> None:
    assert [oct(path.stat().st_mode)[-3:] for path in (backup, backup / "bank.dump")] == ["700", "600"]
    done = bank(elsewhere, "restore", backup)
    assert done.exit_code == 0, done.output
    for said in ("The log is what was sealed.", "All invariants hold.", "The bank is back."):
        assert said in done.stdout
    there = everything(books.environ)
    assert there == everything(elsewhere) and len(there["entries"]) > 0


def test_a_bank_that_is_restored_goes_on(backup: Path, elsewhere: dict[str, str]) -> None:
    assert bank(elsewhere, "restore", backup).exit_code == 0
    # The next positions and numbers are behind those that came back, and no lane waits for a transaction of the server before.
    submitted = query(
        elsewhere,
        """WITH event AS (INSERT INTO events (stream_id, version, type, data) VALUES (gen_random_uuid(), 1, 'TransactionSubmitted', '{}')
                          RETURNING position, stream_id),
                a AS (SELECT account_id, user_id, currency FROM balances WHERE user_id IS NOT NULL AND currency = 'USD' LIMIT 1)
           INSERT INTO transactions (id, seq, lane, type, status, to_user_id, to_account_id, amount, currency, to_amount, to_currency,
                                     effective_at)
           SELECT stream_id, position, 0, 'credit', 'pending', user_id, account_id, 100, currency, 100, currency, now() FROM event, a
           RETURNING id::text""",
    )
    app = create_app(Config.from_env(elsewhere))
    with app.app_context():
        # With what the books have pending in that lane, which is by chance the lane of one of their accounts.
        assert drain_once(0)
    assert query(elsewhere, "SELECT status FROM transactions WHERE id = %s::uuid", submitted[0][0]) == [("completed",)]
    assert query(elsewhere, "SELECT count(*) FROM lanes WHERE lane <> 0 AND candidate_xid IS NOT NULL") == [(0,)]


def test_a_log_that_does_not_hold_the_head_is_told(backup: Path, elsewhere: dict[str, str], tmp_path: Path) -> None:
    head = json.loads((backup / "head.json").read_bytes())
    # As it would be signed by a bank that had gone on longer: its end was cut off since.
    header = json.loads(head["header"])
    signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED))
    later = json.dumps({**header, "number": header["number"] + 1, "after": header["last"], "last": header["last"] + 5})
    head |= {"header": later, "signature": signer.sign(later.encode()).hex(), "public_key": keys.public_half(signer).hex()}
    (tmp_path / "bank.dump").symlink_to(backup / "bank.dump")
    (tmp_path / "head.json").write_text(json.dumps(head))
    done = bank(elsewhere, "restore", tmp_path)
    assert done.exit_code == 1, done.output
    assert "its end was cut off" in done.stdout and "The bank is back" not in done.stdout


def test_a_head_that_nobody_trusts_is_refused_before_anything_is_restored(backup: Path, elsewhere: dict[str, str]) -> None:
    done = bank(elsewhere, "restore", backup, "--key", "ab" * 32)
    assert done.exit_code == 2 and "trusted" in done.stderr
    assert everything(elsewhere) == {}


def test_nothing_is_restored_into_a_database_that_is_in_use(books: Books, backup: Path) -> None:
    before = everything(books.environ)
    done = bank(books.environ, "restore", backup)
    assert done.exit_code == 2 and "not empty" in done.stderr
    assert everything(books.environ) == before


def test_a_dump_that_is_cut_off_restores_nothing(backup: Path, elsewhere: dict[str, str], tmp_path: Path) -> None:
    whole = (backup / "bank.dump").read_bytes()
    (tmp_path / "bank.dump").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.json").symlink_to(backup / "head.json")
    done = bank(elsewhere, "restore", tmp_path)
    assert done.exit_code == 2 and "pg_restore" in done.stderr
    assert everything(elsewhere) == {}


def test_a_key_that_is_named_wants_a_head(backup: Path, elsewhere: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bank.dump").symlink_to(backup / "bank.dump")
    done = bank(elsewhere, "restore", tmp_path, "--key", "ab" * 32)
    assert done.exit_code == 2 and "head.json" in done.stderr
    assert everything(elsewhere) == {}


def test_a_backup_that_fails_leaves_nothing_that_looks_like_one(books: Books, tmp_path: Path) -> None:
    nobody = {**books.environ, "DATABASE_URL": books.environ["DATABASE_URL"].rpartition("/")[0] + "/nothing_here"}
    done = bank(nobody, "backup", tmp_path / "new")
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    assert bank(books.environ, "backup", tmp_path / "old").exit_code == 2
    assert list((tmp_path / "old").iterdir()) == []


def test_the_password_is_on_no_command_line(books: Books, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "pginstall99" / "bin"
    programs.mkdir(parents=True)
    (programs / "pg_dump").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexit 3\n')
    (programs / "pg_dump").chmod(0o755)
    monkeypatch.setattr("bank.cli.postgres._program", lambda name: str(programs / name))
    assert bank(books.environ, "backup", tmp_path / "new").exit_code == 2
    told = (tmp_path / "arguments").read_text()
    assert "--format=custom" in told
    assert books.environ["DATABASE_URL"].split(":")[2].split("@")[0] not in told
