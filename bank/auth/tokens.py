"""Access and refresh tokens: JSON Web Tokens (RFC 7519), signed by HS256, read with no benefit of the doubt.

Both carry `sub` (the user), `sid` (the login) and `jti`. What a token says is never more than "this is
login so-and-so"; whether that login still runs, and the role, is asked of the database at each request.
"""

import hmac
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import jwt
from flask import Flask, Response, current_app, request
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token, decode_token
from flask_jwt_extended.exceptions import JWTDecodeError

from bank.errors import Unauthenticated
from bank.web.problems import problem

ISSUER = AUDIENCE = "bank"
ALGORITHM = "HS256"
# Clocks of several machines differ by less.
LEEWAY_SECONDS = 30
# Tokens that one process remembers, about a kilobyte each.
_REMEMBERED_AT_MOST = 4_096
_REQUIRED = ["exp", "iat", "nbf", "iss", "aud", "sub", "sid", "jti", "type"]

# RFC 6750, 2.1, with the scheme in any case (RFC 9110, 11.1). Nothing else is a place for a token.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)", re.ASCII)

Kind = Literal["access", "refresh"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says: whose it is, of which login, and its own id."""

    user_id: str
    login_id: str
    token_id: str


class _StrictManager(JWTManager):
    """flask-jwt-extended with one change: a token is decoded once, and everything about it is required.

    The original decodes without the signature first, takes a token without `exp`, and is three
    times slower at it. And since the same token comes with request after request, the ones found
    good are remembered: of what is checked, only the expiry changes with time.
    """

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        # The present key first: it is the one that most tokens are signed by.
        self._keys = {key_id(key): key for key in reversed(app.config["BANK"].signing_keys)}
        self._good: dict[str, dict[str, Any]] = {}

    def _decode_jwt_from_config(self, encoded_token: str, csrf_value: Any = None, allow_expired: bool = False) -> dict[str, Any]:
        claims = self._good.get(encoded_token)
        if claims is None or claims["exp"] + LEEWAY_SECONDS <= time.time():
            claims = self._decode(encoded_token)
            if len(self._good) >= _REMEMBERED_AT_MOST:
                self._good.clear()
            self._good[encoded_token] = claims
        return claims

    def _decode(self, encoded_token: str) -> dict[str, Any]:
        try:
            claims = self._verified(encoded_token)
            # Digits in a string pass for a time above.
            claims["exp"] = int(claims["exp"])
            # The ids go into SQL as uuid: what is none is refused here.
            for name in ("sub", "sid", "jti"):
                UUID(claims[name])
        except (jwt.PyJWTError, ValueError, AttributeError, TypeError) as error:
            raise JWTDecodeError("The token is expired or was not made by us.") from error
        return claims

    def _verified(self, encoded_token: str) -> dict[str, Any]:
        """The claims of a token that one of our keys signed. Raises PyJWTError."""
        # The keys and the algorithm are ours whatever the header says: `alg` must name this one algorithm, `kid` tells one of our
        # keys from another and is looked up nowhere else, and `jku`, `jwk` and `x5u` are never looked at (RFC 8725, 3.1, 3.10).
        kid = jwt.get_unverified_header(encoded_token).get("kid")
        # Tokens of before keys had ids name none; what names one is of that key, or of nobody.
        for key in [key for name, key in self._keys.items() if kid in (None, name)]:
            with suppress(jwt.InvalidSignatureError):
                claims: dict[str, Any] = jwt.decode(
                    encoded_token,
                    key,
                    algorithms=[ALGORITHM],
                    issuer=ISSUER,
                    audience=AUDIENCE,
                    leeway=LEEWAY_SECONDS,
                    options={"require": _REQUIRED},
                )
                return claims
        raise jwt.InvalidSignatureError


def key_id(key: str) -> str:
    """By what a token names the key that signed it, and from which nobody learns the key (RFC 7515, 4.1.4)."""
    return hmac.digest(key.encode(), b"bank key id", "sha256").hex()[:8]


def init_app(app: Flask) -> None:
    """Set up flask-jwt-extended. The secret and the lifetimes are in the application's configuration already."""
    app.config.update(
        JWT_ALGORITHM=ALGORITHM,
        JWT_DECODE_ALGORITHMS=[ALGORITHM],
        JWT_ENCODE_ISSUER=ISSUER,
        JWT_DECODE_ISSUER=ISSUER,
        JWT_ENCODE_AUDIENCE=AUDIENCE,
        JWT_DECODE_AUDIENCE=AUDIENCE,
        JWT_DECODE_LEEWAY=LEEWAY_SECONDS,
        JWT_TOKEN_LOCATION=["headers"],
        # Tokens never travel in cookies, so they need no `csrf` claim.
        JWT_COOKIE_CSRF_PROTECT=False,
    )
    manager = _StrictManager(app)
    kid = key_id(app.config["BANK"].jwt_secret)
    manager.additional_headers_loader(lambda _: {"kid": kid})
    # Whatever the extension finds wrong by itself is one answer: by default some are 422, and none a problem.
    for loader in (
        manager.expired_token_loader,
        manager.invalid_token_loader,
        manager.needs_fresh_token_loader,
        manager.revoked_token_loader,
        manager.token_verification_failed_loader,
        manager.unauthorized_loader,
        manager.user_lookup_error_loader,
    ):
        loader(_refused)


def _refused(*_: Any) -> Response:
    error = Unauthenticated("The token is not good.")
    return problem(error.status, error.code, error.title, error.detail, headers=error.headers)


def user() -> str | None:
    """The id in the request's access token, or None where there is no good one; its login may have ended."""
    try:
        return verify("access").user_id
    except Unauthenticated:
        return None


def verify(kind: Kind) -> Claims:
    """The claims of the request's Bearer token, which must be of this kind.

    Raises Unauthenticated when there is none, or it is forged, expired, not ours or of the other kind.
    """
    header = request.headers.get("Authorization")
    if header is None:
        raise Unauthenticated("Send an Authorization header with a Bearer token.")
    bearer = _BEARER.fullmatch(header)
    if bearer is None:
        raise Unauthenticated("The Authorization header must be: Bearer, a space, and the token.")
    try:
        claims = decode_token(bearer[1])
    except JWTDecodeError as error:
        raise Unauthenticated("The token is expired or was not made by us.") from error
    if claims["type"] != kind:
        raise Unauthenticated(f"This is no {kind} token.")
    return Claims(claims["sub"], claims["sid"], claims["jti"])


def pair(user_id: str, login_id: str, refresh_id: str) -> dict[str, Any]:
    """The answer to a login: an access token, and the refresh token with `jti` `refresh_id` (RFC 6749, 5.1)."""
    return {
        "access_token": create_access_token(user_id, additional_claims={"sid": login_id}),
        "refresh_token": create_refresh_token(user_id, additional_claims={"sid": login_id, "jti": refresh_id}),
        "token_type": "Bearer",
        "expires_in": current_app.config["BANK"].access_token_seconds,
    }
