"""Which public keys a command trusts."""

import os
import re

import click

from bank.config import ConfigError, with_secrets
from bank.proof import keys

HELP = "The public key to trust, 64 hexadecimal digits; may be given again. By default BANK_SEAL_PUBLIC_KEYS and that of BANK_SEAL_KEY."


def trusted(given: tuple[str, ...]) -> set[bytes]:
    """The keys given, or else those of the environment. Raises UsageError when there is none, or one that is no key."""
    try:
        environ = with_secrets(os.environ)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    seed = environ.get("BANK_SEAL_KEY")
    texts = given or tuple(filter(None, (key.strip() for key in environ.get("BANK_SEAL_PUBLIC_KEYS", "").split(","))))
    if not all(re.fullmatch(r"[0-9a-fA-F]{64}", key, re.ASCII) for key in (*texts, *([seed] if seed else []))):
        raise click.UsageError("A key has 64 hexadecimal digits.")
    found = {bytes.fromhex(key) for key in texts} | ({keys.public_half(keys.private_key(seed))} if seed and not given else set())
    if not found:
        raise click.UsageError("Give the public key to trust by --key: 64 hexadecimal digits.")
    return found
