"""`bank verify` finds whatever was done to the log with a superuser's hands."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bank.cli.verify import command
from bank.db import unit_of_work
from bank.proof import blocks
from bank.proof.sealer import Sealer
from tests.processes import query
from tests.proof import conftest
from tests.proof.conftest import KEY, PUBLIC_KEY, Sealed, last_position, seal_up_to


def verify(sealed: Sealed, *options: str) -> Result:
    return CliRunner(env={**sealed.environ, "COLUMNS": "200"}).invoke(command, options)


def head(sealed: Sealed, directory: Path) -> str:
    """What GET /events/head answers, kept in a file."""
    answer = sealed.books.teller.get("/events/head")
    file = directory / "head.json"
    file.write_text(json.dumps(answer))
    return str(file)


def test_a_log_that_nobody_touched_is_what_was_sealed(sealed: Sealed, tmp_path: Path) -> None:
    done = verify(sealed, "--head", head(sealed, tmp_path))
    assert done.exit_code == 0, done.output
    events = last_position(sealed.books.app)
    assert f"4 blocks with {events} events" in done.stdout
    assert "The log is what was sealed." in done.stdout
    assert "not sealed yet" not in done.stdout


def test_it_is_checked_with_a_key_that_was_given(sealed: Sealed) -> None:
    assert verify(sealed, "--key", PUBLIC_KEY.hex()).exit_code == 0
    other = blocks.public_bytes(Ed25519PrivateKey.generate()).hex()
    done = verify(sealed, "--key", other)
    assert done.exit_code == 1 and f"Block 1 is signed with a key that is not trusted, {PUBLIC_KEY.hex()}" in done.stdout
    assert verify(sealed, "--key", other, "--key", PUBLIC_KEY.hex()).exit_code == 0
    assert verify(sealed, "--key", "abc").exit_code == 2


# What is done to the log, and what is said of it.
HARM = {
    "UPDATE events SET data = '{}' WHERE type = 'TransactionFailed'": "is not what was sealed",
    "UPDATE events SET recorded_at = recorded_at + interval '1 microsecond' WHERE position = 7": "Block 3: event 7 is not what was sealed",
    "UPDATE events SET request_id = 'another' WHERE position = 8": "Block 3: event 8 is not what was sealed",
    "UPDATE events SET actor_id = NULL WHERE position = 9 AND actor_id IS NOT NULL": "Block 3: event 9 is not what was sealed",
    "UPDATE events SET version = 9 WHERE position = 2": "Block 1: event 2 is not what was sealed",
    "UPDATE events SET stream_id = gen_random_uuid() WHERE position = 2": "Block 1: event 2 is not what was sealed",
    "DELETE FROM events WHERE position = 9": "Block 3: 1 sealed event is gone, behind position 8",
    "DELETE FROM events WHERE position = 1": "Block 1: 1 sealed event is gone, behind position 0",
    "DELETE FROM events WHERE position IN (5, 6)": "Block 2: 1 sealed event is gone, behind position 5",
    "DELETE FROM events WHERE position > 12": "Block 4: ",
    """INSERT INTO events (position, stream_id, version, type, data) OVERRIDING SYSTEM VALUE
       VALUES (-3, gen_random_uuid(), 1, 'X', '{}')""": "Block 1: event -3 is not what was sealed",
    "UPDATE blocks SET signature = sha512('x') WHERE number = 2": "The signature of block 2 is wrong",
    "UPDATE blocks SET sealed_at = sealed_at - interval '1 day' WHERE number = 2": "The signature of block 2 is wrong",
    "UPDATE blocks SET root = sha256('x') WHERE number = 2": "The signature of block 2 is wrong",
    "UPDATE blocks SET events = events + 1 WHERE number = 2": "The signature of block 2 is wrong",
    "DELETE FROM blocks WHERE number = 2": "Blocks 2 to 2 are gone",
    "DELETE FROM blocks WHERE number = 1": "Blocks 1 to 1 are gone",
    "DELETE FROM blocks WHERE number = 4": "the chain ends at 13: its end was cut off",
    "UPDATE blocks SET leaves = sha256('x') WHERE number = 2": "Block 2: its leaves were changed",
    "UPDATE blocks SET secret = sha256('x') WHERE number = 2": "Block 2: event 6 is not what was sealed",
}


@pytest.mark.parametrize("statements", HARM)
def test_what_was_done_to_it_is_found_and_named(sealed: Sealed, statements: str) -> None:
    sealed.harm(statements)
    done = verify(sealed)
    assert done.exit_code == 1, done.output
    assert HARM[statements] in done.stdout
    assert "CHANGED: the log is not what was sealed." in done.stdout


def test_a_swapped_pair_names_both(sealed: Sealed) -> None:
    sealed.harm(
        """DELETE FROM events WHERE position IN (10, 11);
           INSERT INTO events OVERRIDING SYSTEM VALUE
           SELECT 21 - position, stream_id, version, type, schema, data, actor_id, request_id, trace_id, recorded_at
             FROM kept_events WHERE position IN (10, 11)"""
    )
    done = verify(sealed)
    assert done.exit_code == 1, done.output
    assert all(f"Block 3: event {position} is not what was sealed." in done.stdout for position in (10, 11))
    assert "gone" not in done.stdout


CUT = "DELETE FROM events WHERE position > 13; DELETE FROM blocks WHERE last > 13; UPDATE followers SET position = 13"


def test_an_end_that_was_cut_off_with_all_its_traces_is_found_against_a_head_kept_elsewhere(sealed: Sealed, tmp_path: Path) -> None:
    kept = head(sealed, tmp_path)
    sealed.harm(CUT)
    assert verify(sealed).exit_code == 0
    done = verify(sealed, "--head", kept)
    assert done.exit_code == 1, done.output
    assert "The chain does not hold block 4 of the head that was kept: its end was cut off." in done.stdout


def test_a_chain_that_was_made_anew_with_the_same_key_is_found_against_a_head_kept_elsewhere(sealed: Sealed, tmp_path: Path) -> None:
    kept = head(sealed, tmp_path)
    sealed.harm(f"{CUT}; INSERT INTO events (stream_id, version, type, data) VALUES (gen_random_uuid(), 1, 'X', '{{}}')")
    seal_up_to(sealed.books.app, last_position(sealed.books.app))
    assert verify(sealed).exit_code == 0
    done = verify(sealed, "--head", kept)
    assert done.exit_code == 1, done.output
    assert "Block 4 is not that of the head that was kept: the chain was made anew." in done.stdout


def test_a_chain_that_somebody_else_signed_is_not_trusted(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "KEY", Ed25519PrivateKey.generate())
    sealed.harm("DELETE FROM blocks WHERE number = 4; UPDATE followers SET position = 13")
    seal_up_to(sealed.books.app, last_position(sealed.books.app))
    done = verify(sealed)
    assert done.exit_code == 1 and "Block 4 is signed with a key that is not trusted" in done.stdout


def test_what_is_not_sealed_yet_is_told(sealed: Sealed) -> None:
    sealed.harm("INSERT INTO events (stream_id, version, type, data) VALUES (gen_random_uuid(), 1, 'X', '{}')")
    done = verify(sealed)
    assert done.exit_code == 0 and "1 events are not sealed yet, the first for" in done.stdout


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"header": "{}", "signature": "00", "public_key": "00"}', '"x"', "null"])
def test_a_head_that_is_none_is_refused(sealed: Sealed, tmp_path: Path, content: str) -> None:
    (tmp_path / "head.json").write_text(content)
    done = verify(sealed, "--head", str(tmp_path / "head.json"))
    assert done.exit_code == 2 and "head" in done.output, done.output


def test_a_head_that_was_changed_is_refused(sealed: Sealed, tmp_path: Path) -> None:
    kept = Path(head(sealed, tmp_path))
    kept.write_text(kept.read_text().replace('\\"number\\":4', '\\"number\\":3'))
    done = verify(sealed, "--head", str(kept))
    assert done.exit_code == 2 and "not signed with a key that is trusted" in done.output


def test_a_block_cannot_be_changed_or_deleted_by_the_bank_itself(sealed: Sealed) -> None:
    for statement in ("UPDATE blocks SET events = 1", "DELETE FROM blocks", "TRUNCATE blocks"):
        with pytest.raises(Exception, match="append-only"):
            query(sealed.environ, statement)


def test_a_block_holds_a_thousand_events_at_most(sealed: Sealed) -> None:
    sealed.harm("INSERT INTO events (stream_id, version, type, data) SELECT gen_random_uuid(), 1, 'X', '{}' FROM generate_series(1, 2300)")
    seal_up_to(sealed.books.app, last_position(sealed.books.app))
    sizes = [size for (size,) in query(sealed.environ, "SELECT events FROM blocks WHERE number > 4 ORDER BY number")]
    assert sizes == [1000, 1000, 300]
    done = verify(sealed)
    assert done.exit_code == 0 and "7 blocks" in done.stdout, done.output


def test_positions_that_nobody_used_make_no_block(sealed: Sealed) -> None:
    app, end = sealed.books.app, last_position(sealed.books.app)
    with app.app_context(), unit_of_work() as session:
        assert Sealer(KEY).take(session, end, end + 7) == end + 7
    assert query(sealed.environ, "SELECT max(number) FROM blocks") == [(4,)]
    sealed.harm("INSERT INTO events (stream_id, version, type, data) VALUES (gen_random_uuid(), 1, 'X', '{}')")
    seal_up_to(app, last_position(app))
    assert query(sealed.environ, "SELECT after FROM blocks WHERE number = 5") == [(end,)]
    assert verify(sealed).exit_code == 0
