"""Cursors and idempotency keys that somebody makes up, by the hundred."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Person
from tests.contract.problems import check_problem

# All that a header can carry: a client cannot send the end of a line, and what it sends is read as Latin-1.
HEADERS = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=300)


@pytest.fixture(scope="module")
def owner(person: Callable[..., Person]) -> Person:
    """Somebody with three accounts, and so with a second page of one at a time."""
    who = person("owner")
    for _ in range(3):
        who.open_account()
    return who


@pytest.fixture(scope="module")
def payer(person: Callable[..., Person], funded: Callable[..., str]) -> tuple[Person, str]:
    who = person("payer")
    return who, funded(who, "1000.00")


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=600))
def test_a_text_is_no_cursor(owner: Person, text: str) -> None:
    check_problem(owner.get(f"/accounts?limit=1&cursor={quote(text)}"), 422, "/cursor")


@given(at=st.integers(0, 10_000), other=st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
def test_a_cursor_with_another_letter_leads_nowhere_else(owner: Person, at: int, other: str) -> None:
    true = owner.get("/accounts?limit=1").json["next_cursor"]
    made_up = true[: at % len(true)] + other + true[at % len(true) + 1 :]
    answer = owner.get(f"/accounts?limit=1&cursor={made_up}")
    if answer.status_code == 200:
        # The last letter of base64 has bits that mean nothing: whatever they are, it is the same cursor.
        assert (at % len(true), answer.json) == (len(true) - 1, owner.get(f"/accounts?limit=1&cursor={true}").json) or made_up == true
    else:
        check_problem(answer, 422, "/cursor")


@settings(max_examples=60)
@given(key=HEADERS)
def test_a_header_is_a_key_or_is_refused(payer: tuple[Person, str], key: str) -> None:
    who, account = payer
    body = {"account_id": account, "amount": "0.01", "currency": "USD"}
    first, again = (who.post("/transactions/debit", body, headers={"Idempotency-Key": key}) for _ in range(2))
    if 1 <= len(key) <= 255 and key.isascii() and key.isprintable():
        assert (first.status_code, again.data) == (202, first.data)
        assert again.headers["Idempotent-Replayed"] == "true"
        other = who.post("/transactions/debit", {**body, "amount": "0.02"}, headers={"Idempotency-Key": key})
        assert (other.status_code, other.json["code"]) == (422, "idempotency_key_reused")
    else:
        for answer in (first, again):
            check_problem(answer, 422, "/headers/Idempotency-Key")


@settings(max_examples=40)
@given(
    keys=st.lists(
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=8), min_size=2, max_size=2, unique=True
    )
)
def test_two_keys_are_two_payments(payer: tuple[Person, str], keys: list[str]) -> None:
    who, account = payer
    body = {"account_id": account, "amount": "0.03", "currency": "USD"}
    answers = [who.post("/transactions/credit", body, headers={"Idempotency-Key": key}) for key in keys]
    assert answers[0].json["id"] != answers[1].json["id"]
