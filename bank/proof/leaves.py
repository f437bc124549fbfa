"""The canonical bytes of an event: what a leaf of the tree is made of.

They are JSON with these members in this order: position, stream_id, version, type, schema, recorded_at, data, origin.
The last two are not the content itself but a hash that commits to it: SHA-256 of a salt and the content. So a receipt may show
an event and keep a part of it closed, as the balance of the other side, and nobody can guess that part by hashing guesses.
The salts follow by BLAKE2b (RFC 7693) from the secret of the block, which the database holds and no receipt does
(docs/decisions/0005).
"""

from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Any, NamedTuple

import orjson

from bank.proof import merkle

COLUMNS = """
    position, stream_id::text, version, type, schema,
    to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS recorded_at,
    data::text, actor_id::text, request_id, trace_id
"""
"""What `leaf` reads of the events' table."""


SALT_BYTES = 32


class Part(NamedTuple):
    """A part of an event that can be shown or kept closed. The salt has SALT_BYTES, or the border to the content could be moved."""

    salt: bytes
    content: bytes

    @property
    def commitment(self) -> str:
        """The hash that stands for it, in hexadecimal digits."""
        return sha256(self.salt + self.content).hexdigest()


class Leaf(NamedTuple):
    """An event as it is sealed: its canonical bytes, and the two parts that they commit to.

    `data` is the event's own JSON, `origin` a JSON array of actor, request and trace id.
    """

    position: int
    event: bytes
    data: Part
    origin: Part

    @property
    def hash(self) -> bytes:
        """The leaf's hash in the tree."""
        return merkle.leaf_hash(self.event)


def leaf(row: Sequence[Any], secret: bytes, sealed_data: str | None = None) -> Leaf:
    """The leaf of a row of COLUMNS in the block with this secret.

    `sealed_data` is the commitment to the data as it was sealed, where some of it was erased since (`ErasedEvent`).
    """
    position, stream_id, version, kind, schema, recorded_at, content, *origin = row
    # A keyed hash of twice the length of a salt: cut in two it gives one for each part.
    salts = blake2b(b"%d" % position, key=secret).digest()
    data, where = Part(salts[:SALT_BYTES], content.encode()), Part(salts[SALT_BYTES:], orjson.dumps(origin))
    event = orjson.dumps(
        {
            "position": position,
            "stream_id": stream_id,
            "version": version,
            "type": kind,
            "schema": schema,
            "recorded_at": recorded_at,
            "data": sealed_data or data.commitment,
            "origin": where.commitment,
        }
    )
    return Leaf(position, event, data, where)
