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
from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from bank.errors import Conflict, NotFound
from bank.proof import blocks, keys, leaves, merkle
from bank.proof.models import Block

log = structlog.get_logger(__name__)

# The version of a receipt's shape.
FORMAT = 1

# The event that holds the balances of both sides; in this version others hold what the payer had, or had used of limits.
_HOLDS_BALANCES = "TransactionCompleted"
_WITH_CHECKS = {("TransactionFailed", 2), ("TransactionHeld", 2)}


class NotSealed(Conflict):
    """The last event of the transaction is not in a block yet; it is in a moment."""

    code, title = "not_sealed", "The transaction is not sealed yet"

    def __init__(self) -> None:
        super().__init__("It is in a moment.", headers={"Retry-After": "1"})


class NotAsSealed(Conflict):
    """An event is not what was sealed: somebody has changed the log."""

    code, title = "not_as_sealed", "The log is not what was sealed"


_EVENTS = f"SELECT {leaves.COLUMNS} FROM events WHERE stream_id = CAST(:id AS uuid) ORDER BY version"


def make(session: Session, transaction_id: str, *, balances: bool, origin: bool) -> dict[str, Any]:
    """The receipt of a transaction over all of its events so far.

    `balances` shows what the balances of both sides were, `origin` who asked and by which request; otherwise these stay closed.
    Raises NotFound, NotSealed, and NotAsSealed when the log was changed.
    """
    rows = session.execute(text(_EVENTS), {"id": transaction_id}).all()
    if not rows:
        raise NotFound
    block: _Opened | None = None
    found: list[dict[str, Any]] = []
    for row in rows:
        if block is None or not block.after < row.position <= block.last:
            block = _Opened.holding(session, row.position)
        leaf, index, path = block.find(row)
        found.append(
            {
                "event": leaf.event.decode(),
                "data": _shown(leaf.data) if balances or not _closed(row) else None,
                "origin": _shown(leaf.origin) if origin else None,
                "index": index,
                "path": [sibling.hex() for sibling in path],
                "block": block.shown,
            }
        )
    return {"receipt": FORMAT, "transaction_id": transaction_id, "events": found}


@dataclass(frozen=True, slots=True)
class _Opened:
    """A block with its tree, for as many events of it as there are."""

    number: int
    after: int
    last: int
    secret: bytes
    tree: merkle.Tree
    shown: dict[str, Any]

    @classmethod
    def holding(cls, session: Session, position: int) -> "_Opened":
        """The block that the event at this position is in. Raises NotSealed, and NotAsSealed for a block that cannot be read."""
        block = session.scalars(select(Block).where(Block.last >= position).order_by(Block.last).limit(1)).one_or_none()
        if block is None:
            raise NotSealed
        try:
            header = blocks.parse(block.header)
        except ValueError as error:
            log.error("block_not_as_sealed", block=block.number, error=str(error))
            raise NotAsSealed(f"Block {block.number} is not what was sealed.") from error
        return cls(block.number, header.after, block.last, block.secret, merkle.grow(split(block.leaves)), blocks.present(block))

    def find(self, row: Row[Any]) -> tuple[leaves.Leaf, int, list[bytes]]:
        """The leaf of an event, its number in the tree, and the path from it. Raises NotAsSealed."""
        leaf = leaves.leaf(row, self.secret)
        if leaf.hash not in self.tree[0]:
            log.error("event_not_as_sealed", position=row.position, block=self.number)
            raise NotAsSealed(f"Event {row.position} is not what block {self.number} sealed.")
        index = self.tree[0].index(leaf.hash)
        return leaf, index, merkle.path(self.tree, index)


def split(leaf_hashes: bytes) -> list[bytes]:
    """The hashes of a block's leaves, as they are stored, one by one."""
    return [leaf_hashes[at : at + blocks.HASH_BYTES] for at in range(0, len(leaf_hashes), blocks.HASH_BYTES)]


def _closed(row: Row[Any]) -> bool:
    return row.type == _HOLDS_BALANCES or (row.type, row.schema) in _WITH_CHECKS


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


def check(receipt: Any, trusted: Collection[bytes]) -> list[Proven]:
    """What a receipt proves to who trusts these public keys, in the order of the transaction's events.

    Asks nobody: it needs no database. That events are missing at its end cannot be told: what came later is never in a receipt.
    Raises NotProven for everything that is not a true receipt.
    """
    try:
        if type(receipt["receipt"]) is not int or receipt["receipt"] != FORMAT:
            raise NotProven(f"It is no receipt of version {FORMAT}.")
        items = list(receipt["events"])
        if not items:
            raise NotProven("It has no events.")
        return [_check_event(item, receipt["transaction_id"], version, trusted) for version, item in enumerate(items, 1)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NotProven(f"It is not a receipt: {type(error).__name__} {error}") from error


def _check_event(item: Mapping[str, Any], transaction_id: str, version: int, trusted: Collection[bytes]) -> Proven:
    # First of all the signature: nothing of a header is read before that.
    signed, public_key = item["block"]["header"], bytes.fromhex(item["block"]["public_key"])
    if not keys.is_signed(signed, bytes.fromhex(item["block"]["signature"]), public_key, trusted):
        raise NotProven(f"The block of its event {version} is not signed with a key that is trusted.")
    block = blocks.parse(signed)
    index, path = item["index"], [bytes.fromhex(sibling) for sibling in item["path"]]
    if type(index) is not int or any(len(sibling) != blocks.HASH_BYTES for sibling in path):
        raise NotProven(f"The path of its event {version} is none.")
    root = merkle.root_of(merkle.leaf_hash(item["event"].encode()), index, block.events, path)
    if root is None or root.hex() != block.root:
        raise NotProven(f"Its event {version} is not in block {block.number}.")
    event = orjson.loads(item["event"])
    if (event["stream_id"], event["version"]) != (transaction_id, version):
        raise NotProven(f"Its event {version} is not that of the transaction.")
    data, origin = (_open(item[part], event[part], part, version) for part in ("data", "origin"))
    return Proven(event["position"], event["type"], event["recorded_at"], data, origin, block.number, block.sealed_at)


def _open(shown: Mapping[str, str] | None, commitment: str, part: str, version: int) -> Any:
    if shown is None:
        return None
    opened = leaves.Part(bytes.fromhex(shown["salt"]), shown["content"].encode())
    if len(opened.salt) != leaves.SALT_BYTES or opened.commitment != commitment:
        raise NotProven(f"The {part} of its event {version} is not what was sealed.")
    return orjson.loads(opened.content)
