"""Blocks: runs of events under one signature each, every one chained to the one before."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from bank.config import Config, ConfigError
from bank.proof.models import Block
from bank.web.fields import timestamp

# Of a SHA-256, and of an Ed25519 key.
HASH_BYTES = KEY_BYTES = 32

# What the first block has in the place of the hash of one before.
BEFORE_ALL = bytes(HASH_BYTES)


@dataclass(frozen=True, slots=True)
class Header:
    """What is signed of a block. Hashes are in hexadecimal digits; `sealed_at` is RFC 3339 in UTC.

    It holds so many `events`, those behind position `after` and up to position `last`.
    """

    number: int
    after: int
    last: int
    events: int
    root: str
    previous: str
    sealed_at: str

    def to_bytes(self) -> bytes:
        """The bytes that are signed: JSON with the members in the order above."""
        return orjson.dumps(self)

    def hash(self) -> bytes:
        """What the next block is chained by."""
        return sha256(self.to_bytes()).digest()


def header(block: Block) -> Header:
    """The header of a stored block, made anew from its columns."""
    root, previous, sealed_at = block.root.hex(), block.previous.hex(), str(timestamp(block.sealed_at))
    return Header(block.number, block.after, block.last, block.events, root, previous, sealed_at)


def present(block: Block) -> dict[str, Any]:
    """A block as receipts and the head show it: the signed bytes as text, and what they are checked with."""
    return {
        "header": header(block).to_bytes().decode(),
        "signature": block.signature.hex(),
        "public_key": block.public_key.hex(),
    }


def last_block(session: Session) -> Block | None:
    """The head of the chain; None where nothing is sealed yet."""
    return session.scalars(select(Block).order_by(Block.number.desc()).limit(1)).one_or_none()


def signing_key(config: Config) -> Ed25519PrivateKey:
    """The key that seals. Raises ConfigError when there is none."""
    if not config.seal_key:
        raise ConfigError("The configuration is not usable:\n  BANK_SEAL_KEY: is required where the log is sealed")
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(config.seal_key))


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of its public half (RFC 8032)."""
    return key.public_key().public_bytes_raw()


def is_signed(content: bytes, signature: bytes, public_key: bytes) -> bool:
    """Whether the holder of the key signed this content (Ed25519, RFC 8032)."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True
