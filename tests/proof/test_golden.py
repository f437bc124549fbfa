"""What was once sealed is checked for ever: golden.json was made by the first version and is never made again."""

import json
from pathlib import Path
from typing import Any

import pytest

from bank.proof import blocks, leaves, merkle
from bank.proof.receipts import check
from tests.proof.conftest import PUBLIC_KEY
from tests.proof.test_receipts import by_hand


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())
    return found


def test_events_have_the_canonical_bytes_that_they_had(golden: dict[str, Any]) -> None:
    secret = bytes.fromhex(golden["secret"])
    assert [leaves.leaf(row, secret).hash.hex() for row in golden["rows"]] == golden["leaves"]
    header = blocks.parse(golden["header"])
    assert merkle.root([bytes.fromhex(leaf) for leaf in golden["leaves"]]).hex() == header.root
    assert header.to_text() == golden["header"]


def test_a_receipt_that_was_given_is_still_one(golden: dict[str, Any], tmp_path: Path) -> None:
    submitted, completed = check(golden["receipt"], [PUBLIC_KEY])
    assert (submitted.type, submitted.data["amount"], submitted.data["metadata"]) == ("TransactionSubmitted", 1234, {"ünï": "c\\dé"})
    assert submitted.origin[1] == "order-4711"
    assert (completed.type, completed.data, completed.block) == ("TransactionCompleted", None, 3)
    assert by_hand(golden["receipt"], tmp_path)[0] == 0
