"""Walking the whole chain: is every event what was sealed, in its place, and none gone?"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from typing import Any

import orjson
from sqlalchemy import Row, select, text

from bank.db import reader
from bank.proof import blocks, leaves, merkle
from bank.proof.models import Block
from bank.proof.receipts import split

SEALER = "seal"
"""The name of the follower that seals."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What is not sealed yet: how many events, and when the first of them was recorded (None: there is none)."""

    events: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk found: how many blocks and events it saw, every fault as a sentence, and what lies behind the chain."""

    blocks: int
    events: int
    faults: list[str]
    tail: Tail


def head_of(document: Any, public_keys: Collection[bytes]) -> dict[str, Any]:
    """The header of a head that `GET /events/head` gave, checked. Raises ValueError when it is none, or not signed by one of the keys."""
    try:
        signed, public_key = document["header"].encode(), bytes.fromhex(document["public_key"])
        good = public_key in public_keys and blocks.is_signed(signed, bytes.fromhex(document["signature"]), public_key)
        header: dict[str, Any] = orjson.loads(signed)
        int(header["number"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"It is not a head: {type(error).__name__} {error}") from error
    if not good:
        raise ValueError("It is not signed with a key that is trusted.")
    return header


def walk(public_keys: Collection[bytes], head: Mapping[str, Any] | None, watch: Callable[[int], None]) -> Walked:
    """Check every block and every sealed event, from the first to the last that there is now.

    `head` is a header that was kept elsewhere: the chain must hold it. `watch` is told the position reached.
    """
    with reader() as session:
        end = blocks.last_block(session)
    last_number, last = (end.number, end.last) if end else (0, 0)
    faults: list[str] = []
    before, seen, events = None, 0, 0
    kept = None
    for block in _blocks(last_number):
        faults += _faults_of_chain(block, before, public_keys)
        with reader() as session:
            rows = session.connection().exec_driver_sql(_EVENTS, (block.after if block.number > 1 else _BEFORE_ALL, block.last)).fetchall()
        faults += _faults_of_events(block, rows)
        if head is not None and block.number == head["number"]:
            kept = blocks.header(block)
        before, seen, events = block, seen + 1, events + len(rows)
        watch(block.last)
    faults += _faults_of_end(last, head, kept)
    with reader() as session:
        tail = session.execute(
            text("SELECT count(*), min(recorded_at) FROM events WHERE position > :last AND position > 0"), {"last": last}
        ).one()
    return Walked(seen, events, faults, Tail(*tail))


_EVENTS = f"SELECT {leaves.COLUMNS} FROM events WHERE position > %s AND position <= %s ORDER BY position"

# The first block is made of everything up to its end: no position lies before it.
_BEFORE_ALL = -(2**63)

_BLOCKS_AT_ONCE = 20


def _blocks(last_number: int) -> Iterator[Block]:
    number = 0
    while number < last_number:
        with reader() as session:
            wanted = select(Block).where(Block.number > number, Block.number <= last_number).order_by(Block.number)
            rows = session.scalars(wanted.limit(_BLOCKS_AT_ONCE)).all()
        if not rows:
            return
        yield from rows
        number = rows[-1].number


def _faults_of_chain(block: Block, before: Block | None, public_keys: Collection[bytes]) -> list[str]:
    faults = []
    expected = before.number + 1 if before else 1
    if block.number != expected:
        faults.append(f"Blocks {expected} to {block.number - 1} are gone.")
    elif block.previous != (blocks.header(before).hash() if before else blocks.BEFORE_ALL):
        faults.append(f"Block {block.number} is not chained to the one before.")
    if block.after != (before.last if before else 0) and block.number == expected:
        faults.append(f"Block {block.number} does not begin where the one before ends.")
    if block.public_key not in public_keys:
        faults.append(f"Block {block.number} is signed with a key that is not trusted, {block.public_key.hex()}.")
    elif not blocks.is_signed(blocks.header(block).to_bytes(), block.signature, block.public_key):
        faults.append(f"The signature of block {block.number} is wrong: its header was changed.")
    return faults


def _faults_of_events(block: Block, rows: Sequence[Row[Any]]) -> list[str]:
    """What is wrong with the events of a block. Its stored leaves tell which; its root, which is signed, tells whether."""
    found = [leaves.leaf(row, block.secret) for row in rows]
    hashes, sealed = [leaf.hash for leaf in found], split(block.leaves)
    if merkle.root(sealed) != block.root:
        same = merkle.root(hashes) == block.root
        return [f"Block {block.number}: {'its leaves were' if same else 'its leaves or its secret, and its events, were'} changed."]
    if hashes == sealed and len(hashes) == block.events:
        return []
    faults = []
    for what, low, high, first, end in SequenceMatcher(None, sealed, hashes, autojunk=False).get_opcodes():
        if what == "equal":
            continue
        faults += [f"Block {block.number}: event {leaf.position} is not what was sealed." for leaf in found[first:end]]
        if (gone := (high - low) - (end - first)) > 0:
            where = f"behind position {found[end - 1].position if end else block.after}"
            faults.append(f"Block {block.number}: {gone} sealed {'event is' if gone == 1 else 'events are'} gone, {where}.")
    return faults


def _faults_of_end(last: int, head: Mapping[str, Any] | None, kept: blocks.Header | None) -> list[str]:
    """Whether the chain ends where it once ended."""
    faults = []
    with reader() as session:
        sealed = session.execute(text("SELECT position FROM followers WHERE name = :name"), {"name": SEALER}).scalar_one_or_none() or 0
        newest = session.execute(
            text("SELECT count(*) FROM events WHERE position > :last AND position <= :sealed"), {"last": last, "sealed": sealed}
        ).scalar_one()
    if newest:
        faults.append(f"The sealer went up to position {sealed}, and the chain ends at {last}: its end was cut off.")
    if head is not None and kept is None:
        faults.append(f"The chain does not hold block {head['number']} of the head that was kept: its end was cut off.")
    elif head is not None and kept is not None and orjson.loads(kept.to_bytes()) != dict(head):
        faults.append(f"Block {head['number']} is not that of the head that was kept: the chain was made anew.")
    return faults
