"""The keys that seal (Ed25519, RFC 8032)."""

from collections.abc import Collection

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def private_key(seed: str) -> Ed25519PrivateKey:
    """The key of a seed of 64 hexadecimal digits. Raises ValueError for what is none."""
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


def public_half(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes that its seals are checked with."""
    return key.public_key().public_bytes_raw()


def is_signed(header: str, signature: bytes, public_key: bytes, trusted: Collection[bytes]) -> bool:
    """Whether the holder of this key signed this header, and the key is one of those that are trusted."""
    if public_key not in trusted:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, header.encode())
    except (InvalidSignature, ValueError):
        return False
    return True
