"""Codes of a second factor: those of an authenticator (RFC 6238), and those on paper for whoever lost it. Nothing here is stored.

Six digits, thirty seconds, SHA-1: what every authenticator has; several ignore anything else that an otpauth URL says.
"""

import hmac
import secrets
import time
from base64 import b32encode
from hashlib import sha256

import pyotp
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

STEP_SECONDS = 30
# RFC 6238, 5.2: a code may have been under way, and a telephone's clock may be ahead, by one step.
_STEPS_BESIDE = 1

RECOVERY_CODES = 10
# 80 bits: too many to be guessed, so a plain digest of one is as good as a slow hash.
_RECOVERY_BYTES = 10

CODE = r"[0-9]{6}|[A-Za-z2-7]{4}(?:[- ]?[A-Za-z2-7]{4}){3}"
"""What a code looks like, of either kind. Who types one from paper need not type it as it was printed."""

_NONCE_BYTES = 12


def new_secret() -> str:
    """A secret for one user's authenticator, in base32: 160 bits, as RFC 4226, 4, recommends."""
    return pyotp.random_base32()


def otpauth_url(secret: str, username: str) -> str:
    """What an authenticator reads, mostly as a QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=username, issuer_name="bank")


def step_of(secret: str, code: str, after: int | None) -> int | None:
    """Which step of time the code is of, when that is about now and later than `after`, the step of the last code that was used.

    Whoever looked over a shoulder has a code of a step that is used, or of one before it (RFC 6238, 5.2).
    """
    now = int(time.time()) // STEP_SECONDS
    made = pyotp.TOTP(secret)
    found = None
    for step in range(now - _STEPS_BESIDE, now + _STEPS_BESIDE + 1):
        if hmac.compare_digest(made.generate_otp(step), code) and (after is None or step > after):
            found = step
    return found


def new_recovery_codes() -> list[str]:
    """Codes that are good once each, for when the authenticator is lost."""
    texts = (b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode().lower() for _ in range(RECOVERY_CODES))
    return ["-".join(text[start : start + 4] for start in range(0, 16, 4)) for text in texts]


def normal(code: str) -> str:
    """A code as it was made: of the authenticator as it is, of those on paper in small letters with dashes."""
    if len(code) == 6:
        return code
    bare = code.replace("-", "").replace(" ", "").lower()
    return "-".join(bare[start : start + 4] for start in range(0, 16, 4))


def is_recovery(code: str) -> bool:
    """Whether a code is one of those on paper."""
    return "-" in code


def digest(user_id: str, recovery_code: str) -> str:
    """What is stored of a recovery code."""
    return sha256(f"{user_id} {recovery_code}".encode()).hexdigest()


def sealed(secret: str, user_id: str, key: str) -> bytes:
    """The secret as it is stored: encrypted for this user, so that who reads a backup has no second factors by it."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(_derived(key)).encrypt(nonce, secret.encode(), user_id.encode())


def opened(stored: bytes, user_id: str, key: str) -> str | None:
    """The secret of what is stored; None when it was encrypted by another key, or for another user."""
    try:
        return AESGCM(_derived(key)).decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], user_id.encode()).decode()
    except InvalidTag:
        return None


def _derived(key: str) -> bytes:
    # The key that signs tokens may be given for this too; derived, neither use tells anything of the other.
    return HKDF(SHA256(), length=32, salt=None, info=b"bank second factors").derive(key.encode())
