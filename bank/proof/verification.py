"""Walking the whole chain: is every event what was sealed, in its place, and none gone?"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import SequenceMatcher
from hashlib import sha256
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from bank.db import reader
from bank.proof import blocks, keys, leaves, merkle, sealer
from bank.proof.models import Block
from bank.proof.receipts import split

# How many faults are told, and how many events behind the chain are counted: no more than anybody reads.
TOLD = 50
COUNTED = 100_000


@dataclass(slots=True)
class Faults:
    """What is not as it was sealed: the first TOLD as sentences, and how many there are."""

    told: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, fault: str) -> None:
        """One more."""
        self.count += 1
        if len(self.told) < TOLD:
            self.told.append(fault)


@dataclass(frozen=True, slots=True)
class Tail:
    """What is not sealed yet: how many events (COUNTED + 1: more than COUNTED), and when the first of them was recorded (None: there
    is none)."""

    events: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk found: how many blocks and events it saw, of how many of these something was erased, every fault, and what lies behind
    the chain."""

    blocks: int
    events: int
    erased: int
    faults: Faults
    tail: Tail


def head_of(document: Any, trusted: Collection[bytes]) -> str:
    """The header of a head that `GET /events/head` gave. Raises ValueError when it is none, or not signed by a key that is trusted."""
    try:
        header, signature = document["header"], bytes.fromhex(document["signature"])
        if not keys.is_signed(header, signature, bytes.fromhex(document["public_key"]), trusted):
            raise ValueError("It is not signed with a key that is trusted.")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"It is not a head: {type(error).__name__} {error}") from error
    blocks.parse(header)
    return str(header)


_HEAD = text(
    """SELECT COALESCE((SELECT max(number) FROM blocks), 0) AS number, COALESCE((SELECT max(last) FROM blocks), 0) AS last,
              COALESCE((SELECT position FROM followers WHERE name = :sealer), 0) AS sealed"""
)


def head() -> Row[Any]:
    """The number and the end of the newest block (0 where there is none), and the position up to which the sealer went, at one moment."""
    with reader() as session:
        return session.execute(_HEAD, {"sealer": sealer.NAME}).one()


def walk(end: Row[Any], trusted: Collection[bytes], kept: str | None, watch: Callable[[int], None]) -> Walked:
    """Check every block and every sealed event, from the first up to `end`, which is what `head()` gave.

    `kept` is a header that was kept elsewhere: the chain must hold it. `watch` is told the position reached. What is sealed meanwhile
    is not looked at.
    """
    faults = Faults()
    wanted = blocks.parse(kept).number if kept is not None else None
    before: Block | None = None
    found: str | None = None
    seen = events = 0
    for block in _blocks(end.number):
        if block.number < 1:
            faults.add(f"Block {block.number} is not one that was sealed.")
            continue
        if block.number == wanted:
            found = block.header
        seen += 1
        events += _check(block, before, trusted, faults)
        before = block
        watch(block.last)
    with reader() as session:
        if kept is not None and found is None and wanted is not None:
            # A head may have been kept of a block that was sealed since the walk began.
            newer = session.get(Block, wanted)
            found = newer.header if newer is not None else None
        tail = _tail(session)
        erased = _check_erased(session, end.last, faults)
    # The sealer stores both in one transaction, and stands at an event.
    if end.sealed > end.last:
        faults.add(f"The sealer went up to position {end.sealed}, and the chain ends at {end.last}: its end was cut off.")
    if kept is not None and found is None:
        faults.add(f"The chain does not hold block {wanted} of the head that was kept: its end was cut off.")
    elif found != kept:
        faults.add(f"Block {wanted} is not that of the head that was kept: the chain was made anew.")
    return Walked(seen, events, erased, faults, tail)


_BLOCKS_AT_ONCE = 20

# Less than any number of a block or position of an event.
_BEFORE_ALL = -(2**63)


def _blocks(last_number: int) -> Iterator[Block]:
    # From below 1: a block that is numbered so is nobody's.
    number = _BEFORE_ALL
    while number < last_number:
        with reader() as session:
            wanted = select(Block).where(Block.number > number, Block.number <= last_number).order_by(Block.number)
            rows = session.scalars(wanted.limit(_BLOCKS_AT_ONCE)).all()
        if not rows:
            return
        yield from rows
        number = rows[-1].number


_EVENTS = f"SELECT {leaves.COLUMNS} FROM events WHERE position > %s AND position <= %s ORDER BY position"

_ERASED = "SELECT position, commitment FROM erased_events WHERE position > %s AND position <= %s"


def _check(block: Block, before: Block | None, trusted: Collection[bytes], faults: Faults) -> int:
    """Hold a block against its signature, the one before and its events; how many these are."""
    if not keys.is_signed(block.header, block.signature, block.public_key, trusted):
        known = block.public_key in trusted
        faults.add(
            f"The signature of block {block.number} is wrong: its header was changed."
            if known
            else f"Block {block.number} is signed with a key that is not trusted, {block.public_key.hex()}."
        )
    try:
        header = blocks.parse(block.header)
    except ValueError as error:
        faults.add(f"Block {block.number} cannot be read: {error}")
        return 0
    _check_chain(block, header, before, faults)
    with reader() as session:
        # The first block is made of everything up to its end.
        low = header.after if header.number > 1 else _BEFORE_ALL
        # In this order: who erases writes both at once, so that what is seen to be erased is known to be.
        rows = session.connection().exec_driver_sql(_EVENTS, (low, header.last)).fetchall()
        erased = dict(session.connection().exec_driver_sql(_ERASED, (low, header.last)).tuples().all())
    if sha256(block.secret).hexdigest() != header.secret:
        faults.add(f"The secret of block {block.number} was changed: its events cannot be looked at.")
        return len(rows)
    _check_events(block, header, rows, erased, faults)
    return len(rows)


def _check_chain(block: Block, header: blocks.Header, before: Block | None, faults: Faults) -> None:
    if (block.number, block.last) != (header.number, header.last):
        faults.add(f"Block {block.number} is filed as another than it is, which is {header.number}.")
    expected = before.number + 1 if before else 1
    if block.number != expected:
        faults.add(f"Blocks {expected} to {block.number - 1} are gone.")
    elif header.previous != (blocks.header_hash(before.header) if before else blocks.BEFORE_ALL):
        faults.add(f"Block {block.number} is not chained to the one before.")
    elif header.after != (before.last if before else 0):
        faults.add(f"Block {block.number} does not begin where the one before ends.")


def _check_events(block: Block, header: blocks.Header, rows: Sequence[Row[Any]], erased: Mapping[int, str], faults: Faults) -> None:
    """Hold the events of a block against its stored leaves, which tell which is wrong, and these against the signed root."""
    sealed = split(block.leaves)
    if merkle.root(sealed).hex() != header.root or len(sealed) != header.events:
        faults.add(f"The leaves of block {block.number} were changed: which of its events were cannot be told.")
        sealed = []
    found = [leaves.leaf(row, block.secret, erased.get(row.position)) for row in rows]
    hashes = [leaf.hash for leaf in found]
    if not sealed and (merkle.root(hashes).hex(), len(hashes)) != (header.root, header.events):
        faults.add(f"Block {block.number}: its events are not what was sealed.")
    if not sealed or hashes == sealed:
        return
    for what, low, high, first, end in SequenceMatcher(None, sealed, hashes, autojunk=False).get_opcodes():
        if what == "equal":
            continue
        for leaf in found[first:end]:
            faults.add(f"Block {block.number}: event {leaf.position} is not what was sealed.")
        if (gone := (high - low) - (end - first)) > 0:
            where = f"behind position {found[end - 1].position if end else header.after}"
            faults.add(f"Block {block.number}: {gone} sealed {'event is' if gone == 1 else 'events are'} gone, {where}.")


_ERASURES = text("SELECT position, data FROM events WHERE type = 'PersonalDataErased'")
_LEFT = text(
    "SELECT x.position, e.data::text FROM erased_events x LEFT JOIN events e USING (position) WHERE x.position <= :last ORDER BY 1"
)


def _check_erased(session: Session, last: int, faults: Faults) -> int:
    """Hold what is left of erased events against the events that tell of their erasure. How many there are."""
    # In this order: what is erased in between is not looked at.
    left = session.execute(_LEFT, {"last": last}).all()
    told: dict[int, str] = {}
    for position, data in session.execute(_ERASURES):
        try:
            told |= dict(data["events"])
        except (KeyError, TypeError, ValueError):
            faults.add(f"Event {position} does not tell what it erased.")
    for position, data in left:
        if position not in told:
            faults.add(f"Event {position} is kept as erased, and no erasure tells of it.")
        elif data is not None and sha256(data.encode()).hexdigest() != told[position]:
            faults.add(f"Event {position} is not what its erasure left of it.")
    return len(left)


def _tail(session: Session) -> Tail:
    """What is not sealed now, which may be less than when the walk began."""
    row = session.execute(
        text(
            f"""SELECT count(*), min(recorded_at)
                  FROM (SELECT recorded_at FROM events
                         WHERE position > COALESCE((SELECT max(last) FROM blocks), 0) ORDER BY position LIMIT {COUNTED + 1}) e"""
        )
    ).one()
    return Tail(*row)
