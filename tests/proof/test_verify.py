"""`bank verify` finds whatever was done to the log with a superuser's hands."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bank.cli.verify import command
from bank.db import unit_of_work
from bank.proof import blocks, keys, verification
from bank.proof.sealer import ChainBroken, Sealer
from tests.processes import query
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
    other = keys.public_half(Ed25519PrivateKey.generate()).hex()
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
    "DELETE FROM events WHERE position = 13": "Block 3: 1 sealed event is gone, behind position 12",
    "DELETE FROM events WHERE position > 13": "sealed events are gone, behind position 13",
    "UPDATE events SET schema = 2 WHERE position = 7": "Block 3: event 7 is not what was sealed",
    "UPDATE events SET type = 'X' WHERE position = 7": "Block 3: event 7 is not what was sealed",
    "UPDATE events SET trace_id = 'x' WHERE position = 7": "Block 3: event 7 is not what was sealed",
    """INSERT INTO events (position, stream_id, version, type, data) OVERRIDING SYSTEM VALUE
       VALUES (-3, gen_random_uuid(), 1, 'X', '{}')""": "Block 1: event -3 is not what was sealed",
    "UPDATE blocks SET signature = sha512('x') WHERE number = 2": "The signature of block 2 is wrong",
    "UPDATE blocks SET header = replace(header, '2026', '2025') WHERE number = 2": "The signature of block 2 is wrong",
    "UPDATE blocks SET header = '{}' WHERE number = 2": "Block 2 cannot be read",
    "UPDATE blocks SET header = replace(header, '\"last\":6', '\"last\":9223372036854775808') WHERE number = 2": "Block 2 cannot be read",
    "UPDATE blocks SET number = 20 WHERE number = 4": "Block 20 is filed as another than it is, which is 4",
    "UPDATE blocks SET last = last + 100 WHERE number = 4": "Block 4 is filed as another than it is, which is 4",
    "DELETE FROM blocks WHERE number = 2": "Blocks 2 to 2 are gone",
    "DELETE FROM blocks WHERE number = 1": "Blocks 1 to 1 are gone",
    "DELETE FROM blocks WHERE number = 4": "the chain ends at 13: its end was cut off",
    "UPDATE blocks SET leaves = sha256('x') WHERE number = 2": "The leaves of block 2 were changed",
    """UPDATE blocks SET leaves = sha256('x') WHERE number = 2; UPDATE events SET data = '{}'
        WHERE position = 6""": "Block 2: its events are not what was sealed",
    "UPDATE blocks SET secret = sha256('x') WHERE number = 2": "The secret of block 2 was changed",
    "INSERT INTO blocks SELECT -1, -1, header, signature, public_key, secret, leaves FROM blocks WHERE number = 1": "Block -1 is not one",
    "DELETE FROM blocks; DELETE FROM events": "the chain ends at 0: its end was cut off",
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


def resign(sealed: Sealed, block: int, key: Ed25519PrivateKey = KEY, **changes: object) -> None:
    """Change a header and sign it, as somebody with this key can."""
    [(header,)] = query(sealed.environ, "SELECT header FROM blocks WHERE number = %s", block)
    header = replace(blocks.parse(header), **changes).to_text()
    sealed.harm(
        f"""UPDATE blocks SET header = '{header}', signature = '\\x{key.sign(header.encode()).hex()}',
                   public_key = '\\x{keys.public_half(key).hex()}' WHERE number = {block}"""
    )


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"previous": "00" * 32}, "Block 3 is not chained to the one before."),
        ({"after": 5}, "Block 3 does not begin where the one before ends."),
        ({"events": 6}, "The leaves of block 3 were changed"),
        ({"root": "00" * 32}, "The leaves of block 3 were changed"),
        ({"secret": "00" * 32}, "The secret of block 3 was changed"),
        ({"number": 7}, "Block 3 is filed as another than it is, which is 7"),
    ],
)
def test_a_block_that_was_signed_and_is_not_right_is_found(sealed: Sealed, changes: dict[str, object], fault: str) -> None:
    resign(sealed, 3, **changes)
    done = verify(sealed)
    assert done.exit_code == 1 and fault in done.stdout, done.output


def test_a_header_that_is_signed_anew_breaks_the_chain_behind_it(sealed: Sealed) -> None:
    resign(sealed, 3, sealed_at="2026-01-01T00:00:00.000000Z")
    assert "Block 4 is not chained to the one before." in verify(sealed).stdout


def test_a_block_that_somebody_else_signed_is_not_trusted(sealed: Sealed) -> None:
    resign(sealed, 4, Ed25519PrivateKey.generate())
    done = verify(sealed)
    assert done.exit_code == 1 and "Block 4 is signed with a key that is not trusted" in done.stdout


def test_one_block_that_cannot_be_read_does_not_hide_the_others(sealed: Sealed) -> None:
    sealed.harm("UPDATE blocks SET header = 'x', secret = sha256('x') WHERE number = 1; UPDATE events SET data = '{}' WHERE position = 8")
    done = verify(sealed)
    assert done.exit_code == 1, done.output
    assert "Block 1 cannot be read" in done.stdout and "Block 3: event 8 is not what was sealed" in done.stdout


def test_what_is_sealed_during_the_walk_is_no_fault(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = verification.walk

    def seal_meanwhile(end: Any, trusted: Any, kept: Any, watch: Any) -> Any:
        def watching(position: int) -> None:
            sealed.harm("INSERT INTO events (stream_id, version, type, data) VALUES (gen_random_uuid(), 1, 'X', '{}')")
            seal_up_to(sealed.books.app, last_position(sealed.books.app))

        return walk(end, trusted, kept, watching)

    monkeypatch.setattr(verification, "walk", seal_meanwhile)
    done = verify(sealed)
    assert done.exit_code == 0, done.output
    assert "4 blocks" in done.stdout and "not sealed yet" not in done.stdout


def test_where_nothing_is_sealed_nothing_is_verified(sealed: Sealed) -> None:
    sealed.harm("DELETE FROM blocks; DELETE FROM followers")
    done = verify(sealed)
    assert done.exit_code == 2 and "Nothing is sealed" in done.output


def test_faults_are_counted_and_only_some_are_told(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "TOLD", 3)
    sealed.harm("UPDATE events SET data = '{}' WHERE position BETWEEN 2 AND 12")
    done = verify(sealed)
    assert done.stdout.count("is not what was sealed.\n") == 3 + 1 and "… and 8 more." in done.stdout


def test_the_sealer_seals_nothing_on_a_chain_that_is_not_its_own(sealed: Sealed) -> None:
    app = sealed.books.app
    end = last_position(app)
    sealer = Sealer(KEY)
    with app.app_context(), unit_of_work() as session:
        assert sealer.take(session, end, end) == end
    # One block less, and one anew in its place: whoever has the tables can do that, and not sign it.
    for statements, fault in (
        ("DELETE FROM blocks WHERE number = 4", "Block 4 is not there any more"),
        ("UPDATE blocks SET header = replace(header, '2026', '2025') WHERE number = 4", "Block 4 is not there any more"),
    ):
        sealed.harm(statements)
        with app.app_context(), pytest.raises(ChainBroken, match=fault), unit_of_work() as session:
            sealer.take(session, end, end + 1)
        sealed.restore()
    sealed.harm("UPDATE blocks SET header = replace(header, '2026', '2025') WHERE number = 4")
    with app.app_context(), pytest.raises(ChainBroken, match="is not signed with a key that is trusted"), unit_of_work() as session:
        Sealer(KEY).take(session, end, end + 1)


def test_after_a_change_of_the_key_the_old_one_is_trusted_where_it_is_named(sealed: Sealed) -> None:
    app, end, new = sealed.books.app, last_position(sealed.books.app), Ed25519PrivateKey.generate()
    sealed.harm("INSERT INTO events (stream_id, version, type, data) VALUES (gen_random_uuid(), 1, 'X', '{}')")
    with app.app_context(), pytest.raises(ChainBroken), unit_of_work() as session:
        Sealer(new).take(session, end, end + 1)
    with app.app_context(), unit_of_work() as session:
        assert Sealer(new, [PUBLIC_KEY]).take(session, end, last_position(app)) > end
    sealed.harm("UPDATE followers SET position = (SELECT max(last) FROM blocks)")
    both = ["--key", PUBLIC_KEY.hex(), "--key", keys.public_half(new).hex()]
    assert verify(sealed, *both).exit_code == 0
    assert "Block 5 is signed with a key that is not trusted" in verify(sealed).stdout


def test_every_block_has_a_secret_of_its_own(sealed: Sealed) -> None:
    secrets = [bytes(secret) for (secret,) in query(sealed.environ, "SELECT secret FROM blocks")]
    assert len(set(secrets)) == 4 and all(len(set(secret)) > 8 for secret in secrets)


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
    for statement in ("UPDATE blocks SET number = 1", "DELETE FROM blocks", "TRUNCATE blocks"):
        with pytest.raises(Exception, match="append-only"):
            query(sealed.environ, statement)


def test_a_block_holds_a_thousand_events_at_most(sealed: Sealed) -> None:
    sealed.harm("INSERT INTO events (stream_id, version, type, data) SELECT gen_random_uuid(), 1, 'X', '{}' FROM generate_series(1, 2300)")
    seal_up_to(sealed.books.app, last_position(sealed.books.app))
    sizes = [
        size for (size,) in query(sealed.environ, "SELECT (header::json->>'events')::int FROM blocks WHERE number > 4 ORDER BY number")
    ]
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
    assert query(sealed.environ, "SELECT (header::json->>'after')::int FROM blocks WHERE number = 5") == [(end,)]
    assert verify(sealed).exit_code == 0
