"""Receipts: a transaction's events with the proof that they are in the sealed log, to be checked without the bank.

A receipt is plain JSON, `{"receipt": 1, "transaction_id": …, "events": […]}`. Each of its events has the canonical bytes of
the event as text, its `data` and `origin` with their salts where they are shown, `index` and `path` in the Merkle tree, and the
signed `block`. docs/recipes/verify_receipt.py checks one with nothing but the public key.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from bank.errors import Conflict, NotFound
from bank.proof import blocks, leaves, merkle
from bank.proof.models import Block

log = structlog.get_logger(__name__)

# The version of a receipt's shape.
FORMAT = 1

# Holds the balances of both sides.
_CLOSED_TO_PARTIES = "TransactionCompleted"


class NotSealed(Conflict):
    """The last event of the transaction is not in a block yet; it is in a moment."""

    code, title = "not_sealed", "The transaction is not sealed yet"

    def __init__(self) -> None:
        super().__init__("It is in a moment.", headers={"Retry-After": "1"})


class NotAsSealed(Conflict):
    """An event is not what was sealed: somebody has changed the log."""

    code, title = "not_as_sealed", "The log is not what was sealed"


_EVENTS = f"SELECT {leaves.COLUMNS} FROM events WHERE stream_id = CAST(:id AS uuid) ORDER BY version"


def make(session: Session, transaction_id: str, *, whole: bool) -> dict[str, Any]:
    """The receipt of a transaction over all of its events so far.

    `whole` shows all parts of all events, as staff may see them; otherwise who asked, by which request, and what the
    balances were stay closed. Raises NotFound, NotSealed, and NotAsSealed when the log was changed.
    """
    rows = session.execute(text(_EVENTS), {"id": transaction_id}).all()
    if not rows:
        raise NotFound
    found: list[dict[str, Any]] = []
    for row in rows:
        block = session.scalars(select(Block).where(Block.last >= row.position).order_by(Block.last).limit(1)).one_or_none()
        if block is None:
            raise NotSealed
        leaf = leaves.leaf(row, block.secret)
        hashes = split(block.leaves)
        if leaf.hash not in hashes:
            log.error("event_not_as_sealed", position=row.position, block=block.number)
            raise NotAsSealed(f"Event {row.position} is not what block {block.number} sealed.")
        index = hashes.index(leaf.hash)
        found.append(
            {
                "event": leaf.event.decode(),
                "data": _shown(leaf.data) if whole or row.type != _CLOSED_TO_PARTIES else None,
                "origin": _shown(leaf.origin) if whole else None,
                "index": index,
                "path": [sibling.hex() for sibling in merkle.path(hashes, index)],
                "block": blocks.present(block),
            }
        )
    return {"receipt": FORMAT, "transaction_id": transaction_id, "events": found}


def split(leaf_hashes: bytes) -> list[bytes]:
    """The hashes of a block's leaves, as they are stored, one by one."""
    return [leaf_hashes[at : at + blocks.HASH_BYTES] for at in range(0, len(leaf_hashes), blocks.HASH_BYTES)]


def _shown(part: leaves.Part) -> dict[str, str]:
    return {"salt": part.salt.hex(), "content": part.content.decode()}


class NotProven(Exception):
    """The receipt proves nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class Proven:
    """An event that was in the log when its block was sealed. `data` and `origin` are None where they are closed."""

    position: int
    type: str
    recorded_at: str
    data: Any
    origin: Any
    block: int
    sealed_at: str


def check(receipt: Any, public_keys: Collection[bytes]) -> list[Proven]:
    """What a receipt proves to who trusts these keys, in the order of the transaction's events.

    Asks nobody: it needs no database. Raises NotProven for everything that is not a whole and true receipt.
    """
    try:
        if receipt["receipt"] != FORMAT:
            raise NotProven(f"It is a receipt of version {receipt['receipt']!r}; this checks version {FORMAT}.")
        items = list(receipt["events"])
        if not items:
            raise NotProven("It has no events.")
        return [_check_event(item, receipt["transaction_id"], version, public_keys) for version, item in enumerate(items, 1)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NotProven(f"It is not a receipt: {type(error).__name__} {error}") from error


def _check_event(item: Mapping[str, Any], transaction_id: str, version: int, public_keys: Collection[bytes]) -> Proven:
    event = orjson.loads(item["event"])
    if (event["stream_id"], event["version"]) != (transaction_id, version):
        raise NotProven(f"Its event {version} is not that of the transaction.")
    data, origin = (_open(item[part], event[part], part, version) for part in ("data", "origin"))
    signed = item["block"]["header"].encode()
    block = orjson.loads(signed)
    public_key = bytes.fromhex(item["block"]["public_key"])
    if public_key not in public_keys:
        raise NotProven(f"Block {block['number']} is signed with another key, {public_key.hex()}.")
    if not blocks.is_signed(signed, bytes.fromhex(item["block"]["signature"]), public_key):
        raise NotProven(f"The signature of block {block['number']} is wrong.")
    path = [bytes.fromhex(sibling) for sibling in item["path"]]
    root = merkle.root_of(merkle.leaf_hash(item["event"].encode()), int(item["index"]), block["events"], path)
    if root is None or root.hex() != block["root"]:
        raise NotProven(f"Its event {version} is not in block {block['number']}.")
    return Proven(event["position"], event["type"], event["recorded_at"], data, origin, block["number"], block["sealed_at"])


def _open(shown: Mapping[str, str] | None, commitment: str, part: str, version: int) -> Any:
    if shown is None:
        return None
    opened = leaves.Part(bytes.fromhex(shown["salt"]), shown["content"].encode())
    if opened.commitment != commitment:
        raise NotProven(f"The {part} of its event {version} is not what was sealed.")
    return orjson.loads(opened.content)
