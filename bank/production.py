"""What production finds unsafe in a configuration: in a setting, in a secret, on the way to a server."""

import re
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from bank.config import Config

MAKE_ONE = "Give it what `openssl rand -hex 32` makes; how to change it without anybody noticing: docs/runbooks/rotate-keys.md."


class Finding(NamedTuple):
    """What is wrong with a setting, why that matters, and what to do. None of them ever holds a value that may be secret."""

    setting: str
    wrong: str
    why: str
    remedy: str


def unsafe(config: "Config") -> list[Finding]:
    """All that production refuses in a configuration."""
    wrong = []
    if config.debug:
        why = "Flask then tells whoever asks what goes on inside when something fails."
        wrong.append(Finding("FLASK_DEBUG", "must not be on in production", why, "Leave it out."))
    if config.self_service_deposits:
        why = "Every customer can credit an account of their own, with money that nobody paid in."
        remedy = "Leave it out; tellers and administrators credit accounts."
        wrong.append(Finding("BANK_SELF_SERVICE_DEPOSITS", "lets customers make money; not in production", why, remedy))
    if not config.rate_limit_enabled:
        why = "Without limits one caller can keep all others out, and guess passwords as fast as they are hashed."
        wrong.append(Finding("RATELIMIT_ENABLED", "must not be false in production", why, "Leave it out; raise BANK_RATE_LIMIT instead."))
    if config.fx_max_age_days > 14:
        why = "Whoever knows today's rates gains by what the bank takes for them."
        wrong.append(
            Finding("BANK_FX_MAX_AGE_DAYS", "exchanges at rates of long ago; 14 at most in production", why, "Leave it out, or lower it.")
        )
    if "*" in config.cors_origins:
        why = "Any page that somebody opens may then call the API and read what it answers."
        remedy = "List the origins of the pages that are yours, as https://shop.example."
        wrong.append(Finding("BANK_CORS_ORIGINS", "name the origins in production, not *", why, remedy))
    return wrong + _guessable(config) + _on_the_way(config)


def _guessable(config: "Config") -> list[Finding]:
    """The secrets that somebody could guess."""
    given = [
        ("JWT_SECRET_KEY", (config.jwt_secret,), "Who guesses it can be anybody."),
        ("JWT_OLD_SECRET_KEYS", config.old_jwt_secrets, "Who guesses one of them can be anybody."),
        ("BANK_TOTP_KEY", (config.totp_key,), "Who guesses it, and has a copy of the database, has every second factor."),
        ("BANK_METRICS_TOKEN", (config.metrics_token,), "Who guesses it sees how much money is moved, and how the bank fares."),
        ("BANK_SEAL_KEY", (config.seal_key,), "Who guesses it can sign a log of their own."),
    ]
    wrong = []
    for name, keys, why in given:
        # One that is too short is found already, and an empty one is not given.
        if any(len(key.encode()) >= 32 and _is_regular(key) for key in keys):
            wrong.append(Finding(name, "is too regular to be secret; use `openssl rand -hex 32`", why, MAKE_ONE))
    for name in ("BANK_METRICS_TOKEN", "BANK_SEAL_KEY"):
        [own] = [keys for other, keys, _ in given if other == name]
        shared = [other for other, keys, _ in given if other != name and any(keys) and {*own} & {*keys}]
        if any(own) and shared:
            why = "Who is given one, as Prometheus is the token, has what the other opens."
            wrong.append(Finding(name, f"is the same as {shared[0]}", why, MAKE_ONE))
    for name, url in (*_databases(config), ("REDIS_URL", config.redis_url)):
        server = _server(url)
        if server.password and server.password.lower() in {*_DEFAULT_PASSWORDS, server.user.lower()}:
            why = "It is among the first that are tried by whoever reaches the server."
            remedy = "Change it in the server, and here, to what `openssl rand -hex 32` makes."
            wrong.append(Finding(name, "holds a password that servers come with", why, remedy))
    return wrong


def _databases(config: "Config") -> list[tuple[str, str]]:
    return [
        ("DATABASE_URL", config.database_url),
        ("DATABASE_OWNER_URL", config.database_owner_url),
        ("DATABASE_REPLICA_URL", config.database_replica_url),
    ]


def _on_the_way(config: "Config") -> list[Finding]:
    """The servers on other machines that are spoken to without what they must be."""
    wrong = []
    for name, url in _databases(config):
        server = _server(url)
        encrypted = bool(server.ssl_modes) and {*server.ssl_modes} <= {"require", "verify-ca", "verify-full"}
        if not (encrypted or config.trusted_network or all(map(_is_here, server.hosts))):
            why = "Whoever is on the way reads every balance, and may change what is asked and answered."
            remedy = "Add ?sslmode=verify-full to the URL (or require); BANK_TRUSTED_NETWORK=true where the network is the bank's own."
            wrong.append(Finding(name, "reaches PostgreSQL on another machine without TLS", why, remedy))
    host = urlsplit(config.fx_url).hostname or "ecb.example"
    if _is_here(host) or _is_inside(host):
        why = "The rates are fetched from outside alone, so that no setting makes the bank ask a server inside."
        wrong.append(Finding("BANK_FX_URL", "names an address inside", why, "Name the provider's, or a proxy by HTTPS_PROXY."))
    server = _server(config.redis_url)
    away = not all(map(_is_here, server.hosts))
    if away and not server.password:
        why = "Whoever reaches it can empty the queues, and lift every limit."
        remedy = "Set `requirepass` there, and write redis://:password@host:6379/0."
        wrong.append(Finding("REDIS_URL", "reaches Redis on another machine without a password", why, remedy))
    elif away and not (config.redis_url.startswith("rediss://") or config.trusted_network):
        why = "Whoever is on the way reads its password, and may then ring, lift limits and change what is shown."
        remedy = "Write rediss:// for redis://; BANK_TRUSTED_NETWORK=true where the network is the bank's own."
        wrong.append(Finding("REDIS_URL", "reaches Redis on another machine without TLS", why, remedy))
    return wrong


# What examples and images come with.
_DEFAULT_PASSWORDS = (
    "admin",
    "changeme",
    "change-me",
    "default",
    "example",
    "pass",
    "password",
    "postgres",
    "redis",
    "root",
    "secret",
    "test",
)


def _is_regular(key: str) -> bool:
    """Whether a key of 32 bytes or more looks made up by a person, and not by chance: hardly any random one does."""
    bare = key.lower()
    if len(set(bare)) < 10 or re.search(r"change.?me|change.?this|secret|password|example|default", bare):
        return True
    repeats = any(bare[length:] == bare[:-length] for length in range(1, len(bare) // 2 + 1))
    # As in 0123…, abc… and aaa…: one step in five is such a one by chance.
    steps = sum(abs(ord(one) - ord(other)) <= 1 for one, other in pairwise(bare))
    return repeats or steps > len(bare) / 2


# As SQLAlchemy takes a URL apart, whose own way loads all of it: user, password, host in brackets, host, and query.
_URL = re.compile(r"[\w+]+://(?:([^:/]*)(?::([^@]*))?@)?(?:\[([^/?]+)\]|([^/:?]+))?(?::[^/?]*)?(?:/[^?]*)?(?:\?(.*))?", re.DOTALL)


class _Server(NamedTuple):
    """What a URL says of a server: the hosts it may lead to, and how. A host that is empty or a path is a socket."""

    hosts: list[str]
    user: str
    password: str
    ssl_modes: list[str]


def _server(url: str) -> _Server:
    found = _URL.fullmatch(url)
    if not found or url.startswith("unix://"):
        return _Server([], "", "", [])
    user, password, bracketed, plain = (unquote(part or "") for part in found.groups()[:4])
    query = parse_qs(found[5] or "")
    # libpq takes several hosts, each with a port or without, and an address besides; redis-py takes from the query what else is left out.
    more = [host for name in ("host", "hostaddr") for value in query.get(name, []) for host in value.split(",")]
    user, password = user or "".join(query.get("user", [])), password or "".join(query.get("password", []))
    return _Server([bracketed or plain, *more], user, password, query.get("sslmode", []))


def _is_inside(host: str) -> bool:
    """Whether it is an address that nobody outside can be reached by. What a name leads to is looked at when it is asked."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False


def _is_here(host: str) -> bool:
    """Whether what is called so is on this machine: a socket, or its own address."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
