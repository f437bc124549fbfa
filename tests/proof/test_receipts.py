"""A receipt proves its transaction to whoever has the public key, and nothing that was changed."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from bank.cli.verify_receipt import command
from bank.proof import leaves
from bank.proof.receipts import NotProven, check
from tests.books import drain
from tests.conftest import Person
from tests.processes import ROOT
from tests.proof.conftest import KEY, PUBLIC_KEY, Sealed, last_position, seal_up_to

SCRIPT = ROOT / "docs" / "recipes" / "verify_receipt.py"


@pytest.fixture(scope="module")
def receipt(sealed_books: Sealed) -> dict[str, Any]:
    """Of a transfer that was rolled back in part, as staff sees it."""
    return dict(sealed_books.books.teller.get(f"/transactions/{sealed_books.books.transfer}/receipt"))


def test_it_tells_what_happened_to_the_transaction(sealed_books: Sealed, receipt: dict[str, Any]) -> None:
    proven = check(receipt, [PUBLIC_KEY])
    assert [event.type for event in proven] == ["TransactionSubmitted", "TransactionCompleted", "TransactionRolledBack"]
    asked = sealed_books.books.teller.get(f"/events?stream_id={sealed_books.books.transfer}")["data"]
    assert [event.data for event in proven] == [event["data"] for event in asked]
    assert [event.position for event in proven] == [event["position"] for event in asked]
    assert [event.recorded_at for event in proven] == [event["recorded_at"] for event in asked]
    assert [event.origin for event in proven] == [[event["actor_id"], event["request_id"], event["trace_id"]] for event in asked]


def by_hand(receipt: Any, directory: Path, key: str = PUBLIC_KEY.hex(), options: Sequence[str] = ("-I",)) -> tuple[int, str]:
    """What the stand-alone script makes of it. It must not know the bank."""
    (directory / "receipt.json").write_text(receipt if isinstance(receipt, str) else json.dumps(receipt))
    arguments = [sys.executable, *options, str(SCRIPT), str(directory / "receipt.json"), key]
    done = subprocess.run(arguments, cwd=directory, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def by_command(receipt: Any, directory: Path, key: str = PUBLIC_KEY.hex()) -> tuple[int, str]:
    """What `bank verify-receipt` makes of it, without a database."""
    (directory / "receipt.json").write_text(receipt if isinstance(receipt, str) else json.dumps(receipt))
    done = CliRunner(env={"DATABASE_URL": "", "REDIS_URL": "", "BANK_SEAL_KEY": ""}).invoke(
        command, [str(directory / "receipt.json"), "--key", key]
    )
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


Checker = Callable[..., tuple[int, str]]


@pytest.fixture(params=[by_hand, by_command], ids=["script", "command"])
def checker(request: pytest.FixtureRequest) -> Checker:
    return request.param


def test_both_checkers_prove_it(receipt: dict[str, Any], checker: Checker, tmp_path: Path) -> None:
    code, output = checker(receipt, tmp_path)
    assert code == 0, output
    last = f"Proven: transaction {receipt['transaction_id']} was rolled back, in whole or in part. What came later is not in a receipt."
    assert output.splitlines()[-1] == last
    assert '"amount":3000' in output.replace(" ", "")


def test_neither_believes_another_key(receipt: dict[str, Any], checker: Checker, tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    code, output = checker(receipt, tmp_path, other)
    assert code == 1 and "NOT PROVEN" in output


def resigned(receipt: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The receipt as somebody else would forge it, with a key of their own named in it."""
    forged = json.loads(json.dumps(receipt))
    for event in forged["events"]:
        event["block"]["signature"] = key.sign(event["block"]["header"].encode()).hex()
        event["block"]["public_key"] = key.public_key().public_bytes_raw().hex()
    return forged


def test_neither_believes_a_key_because_the_receipt_names_it(receipt: dict[str, Any], checker: Checker, tmp_path: Path) -> None:
    code, output = checker(resigned(receipt, Ed25519PrivateKey.generate()), tmp_path)
    assert code == 1 and "NOT PROVEN" in output


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        "[" * 100_000,
        "{}",
        '"receipt"',
        '{"receipt": 2}',
        '{"receipt": 1, "events": []}',
        '{"receipt": 1, "events": [1]}',
    ],
)
def test_neither_falls_over_what_is_no_receipt(content: str, checker: Checker, tmp_path: Path) -> None:
    code, output = checker(content, tmp_path)
    assert code == 1 and "NOT PROVEN" in output


def scalars(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in the receipt that is a text or a number."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from scalars(inner, (*path, key))
    elif value is not None:
        yield path


def changed(receipt: dict[str, Any], path: tuple[Any, ...], at: int, by: int) -> dict[str, Any]:
    """The receipt with one character, or number, of it changed."""
    copy = json.loads(json.dumps(receipt))
    place = copy
    for key in path[:-1]:
        place = place[key]
    value = place[path[-1]]
    if isinstance(value, int):
        place[path[-1]] = value + by
    else:
        at %= len(value)
        # Digits to other digits: a hexadecimal digit in upper case would be the same.
        place[path[-1]] = value[:at] + chr((ord(value[at]) + by) % 128) + value[at + 1 :]
    return copy


@settings(max_examples=300)
@given(st.data())
def test_not_a_character_of_it_can_be_changed(receipt: dict[str, Any], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(scalars(receipt))))
    forged = changed(receipt, path, data.draw(st.integers(0, 500)), data.draw(st.sampled_from([1, 2, 3, -1])))
    with pytest.raises(NotProven):
        check(forged, [PUBLIC_KEY])


def test_the_script_finds_each_kind_of_change_too(receipt: dict[str, Any], tmp_path: Path) -> None:
    paths = [
        path
        for path in scalars(receipt)
        if path[-1] not in ("public_key",) and path[:2] in (("events", 0), ("receipt",), ("transaction_id",))
    ]
    assert len(paths) > 8
    for path in paths:
        code, output = by_hand(changed(receipt, path, 7, 1), tmp_path)
        assert code == 1 and "NOT PROVEN" in output, path


def test_the_script_checks_with_optimizations_too(receipt: dict[str, Any], tmp_path: Path) -> None:
    forged = json.loads(json.dumps(receipt))
    forged["events"][0]["data"]["content"] = forged["events"][0]["data"]["content"].replace("3000", "9000")
    for options in (["-O"], ["-OO"]):
        assert by_hand(forged, tmp_path, options=options)[0] == 1
        assert by_hand(receipt, tmp_path, options=options)[0] == 0


def test_what_is_proven_is_said_of_the_last_event_that_is_there(receipt: dict[str, Any], checker: Checker, tmp_path: Path) -> None:
    told = ["was asked for; nothing is proven of what became of it", "was posted", "was rolled back, in whole or in part"]
    for count, outcome in enumerate(told, 1):
        code, output = checker({**receipt, "events": receipt["events"][:count]}, tmp_path)
        assert code == 0 and f" {outcome}. What came later is not in a receipt." in output


def test_a_salt_of_another_length_is_none(receipt: dict[str, Any], checker: Checker, tmp_path: Path) -> None:
    moved = json.loads(json.dumps(receipt))
    part = moved["events"][0]["data"]
    part["salt"], part["content"] = part["salt"] + part["content"].encode()[:1].hex(), part["content"][1:]
    code, output = checker(moved, tmp_path)
    assert code == 1 and "NOT PROVEN" in output


def test_events_cannot_be_left_out_at_the_front_added_or_exchanged(receipt: dict[str, Any]) -> None:
    first, second, third = receipt["events"]
    for events in ([second, third], [first, third], [second, first], [first, first], [first, second, third, third]):
        with pytest.raises(NotProven):
            check({**receipt, "events": events}, [PUBLIC_KEY])


def hidden(receipt: dict[str, Any]) -> list[tuple[bool, bool]]:
    return [(event["data"] is None, event["origin"] is None) for event in receipt["events"]]


def test_its_parties_see_no_balance_and_not_who_asked(sealed_app, person, funded, post_all) -> None:
    alice, bob, carol = (person(name) for name in ("alice", "bob", "carol"))
    source, target = funded(alice, "345.67"), funded(bob, "765.43")
    body = {"from_account_id": source, "to_account_id": target, "amount": "0.01", "currency": "USD"}
    sent = alice.post("/transactions/transfer", body, headers={"X-Request-ID": "alices-own-words"}).json["id"]
    post_all()
    assert alice.get(f"/transactions/{sent}/receipt").json["code"] == "not_sealed"
    assert alice.get(f"/transactions/{sent}/receipt").headers["Retry-After"] == "1"
    seal_up_to(sealed_app, last_position(sealed_app))
    for party in (alice, bob):
        answer = party.get(f"/transactions/{sent}/receipt")
        assert answer.status_code == 200, answer.json
        assert hidden(answer.json) == [(False, True), (True, True)]
        assert [event.data and event.data["amount"] for event in check(answer.json, [PUBLIC_KEY])] == [1, None]
        assert not [secret for secret in ("34566", "76544", "alices-own-words") if secret in answer.text]
    assert carol.get(f"/transactions/{sent}/receipt").status_code == 404
    assert carol.get("/events/head").status_code == 403


@pytest.fixture(scope="module")
def sealed_app(app):
    """The suite's own bank, with its log sealed as far as it goes."""
    seal_up_to(app, last_position(app))
    return app


def test_a_closed_part_cannot_be_guessed(sealed_books: Sealed, receipt: dict[str, Any]) -> None:
    """Whoever knows everything but the salt learns nothing from the hash."""
    event = json.loads(receipt["events"][1]["event"])
    content = receipt["events"][1]["data"]["content"].encode()
    for salt in (b"", bytes(32), bytes.fromhex(receipt["events"][0]["data"]["salt"])):
        assert leaves.Part(salt, content).commitment != event["data"]


def test_a_pending_transaction_has_a_receipt_once_it_is_sealed(sealed_books: Sealed) -> None:
    books = sealed_books.books
    assert [event.type for event in check(books.teller.get(f"/transactions/{books.pending}/receipt"), [PUBLIC_KEY])] == [
        "TransactionSubmitted"
    ]


def test_a_teller_sees_balances_and_not_who_asked(sealed_app, teller: Person, auditor: Person, alice: Person, funded, post_all) -> None:
    sent = teller.post("/transactions/debit", {"account_id": funded(alice), "amount": "1.00", "currency": "USD"}).json["id"]
    post_all()
    seal_up_to(sealed_app, last_position(sealed_app))
    assert hidden(teller.get(f"/transactions/{sent}/receipt").json) == [(False, True), (False, True)]
    assert hidden(auditor.get(f"/transactions/{sent}/receipt").json) == [(False, False), (False, False)]


def test_no_receipt_is_given_of_a_block_that_cannot_be_read(sealed: Sealed) -> None:
    sealed.harm("UPDATE blocks SET header = 'x'")
    assert sealed.books.teller.get(f"/transactions/{sealed.books.failed}/receipt")["code"] == "not_as_sealed"


def test_no_receipt_is_given_of_an_event_that_was_changed(sealed: Sealed) -> None:
    sealed.harm(f"UPDATE events SET request_id = 'forged' WHERE stream_id = '{sealed.books.failed}' AND version = 2")
    assert sealed.books.teller.get(f"/transactions/{sealed.books.failed}/receipt")["code"] == "not_as_sealed"


def test_the_head_is_the_newest_block(sealed_books: Sealed) -> None:
    head = sealed_books.books.teller.get("/events/head")
    KEY.public_key().verify(bytes.fromhex(head["signature"]), head["header"].encode())
    header = json.loads(head["header"])
    assert (header["number"], header["last"]) == (4, last_position(sealed_books.books.app))
    assert head["public_key"] == PUBLIC_KEY.hex()


def test_odd_texts_are_sealed_to_the_byte(sealed_app, person, funded, post_all, admin: Person) -> None:
    alice = person("alice")
    account = funded(alice)
    body = {
        "account_id": account,
        "amount": "1.00",
        "currency": "USD",
        "description": 'ünï "cödé" \\ \U0001f4b6',
        "metadata": {"\u2028": "\u00e9\\n"},
    }
    sent = alice.post("/transactions/debit", body).json["id"]
    post_all()
    seal_up_to(sealed_app, last_position(sealed_app))
    proven = check(admin.get(f"/transactions/{sent}/receipt").json, [PUBLIC_KEY])
    assert proven[0].data["description"] == body["description"] and proven[0].data["metadata"] == body["metadata"]
    drain(sealed_app)
