"""Which public keys a command trusts."""

import os

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bank.proof import blocks

HELP = "The public key to trust, 64 hexadecimal digits; may be given again. By default that of BANK_SEAL_KEY."


def trusted(given: tuple[str, ...]) -> set[bytes]:
    """The keys given, or else the public half of BANK_SEAL_KEY. Raises UsageError when there is none, or one that is no key."""
    try:
        keys = {bytes.fromhex(key) for key in given}
        if not keys and (seed := os.environ.get("BANK_SEAL_KEY")):
            keys = {blocks.public_bytes(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)))}
    except ValueError as error:
        raise click.UsageError("A key has 64 hexadecimal digits.") from error
    if not keys or any(len(key) != blocks.KEY_BYTES for key in keys):
        raise click.UsageError("Give the public key to trust by --key: 64 hexadecimal digits.")
    return keys
