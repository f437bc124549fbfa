"""The environment becomes one frozen, validated `Config`; a bad or unsafe value stops the start with its name.

Every setting is one line of the `Config` class: its environment variable, its default, what it means.
`docs/settings.md` is held against this list by a test.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from bank.production import MAKE_ONE, Finding, unsafe

Environment = Literal["development", "test", "production"]


class ConfigError(Exception):
    """One or more settings are missing, malformed or unsafe; the message names each."""


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


def _flask_debug(text: str) -> bool:
    # As Flask itself reads it: anything else switches it on.
    return text.lower() not in ("0", "false", "no")


def _environment(text: str) -> str:
    if text not in ("development", "test", "production"):
        raise ValueError("must be development, test or production")
    return text


def _postgres_url(text: str) -> str:
    # The scheme of most hosters names no driver, and SQLAlchemy would then guess one.
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", text)
    if not url.startswith("postgresql+psycopg2://"):
        raise ValueError("must be a URL of PostgreSQL")
    return url


def _redis_url(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    return text


def _https_url(text: str) -> str:
    if not text.startswith("https://"):
        raise ValueError("must start with https://")
    return text


def _collector_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    if "@" in text or "?" in text:
        raise ValueError("must hold no password and no query; OTEL_EXPORTER_OTLP_HEADERS is for these")
    return text.rstrip("/")


def _rate(text: str) -> str:
    # Here and not at the top: only who sets a rate needs it.
    from limits import parse_many

    try:
        parse_many(text)
    except ValueError:
        raise ValueError("must be a rate such as `100 per minute`, or several with ; between") from None
    return text


def _origins(text: str) -> tuple[str, ...]:
    origins = _list(text)
    # flask-cors takes anything with one of *?.[($^ in it for a regular expression, which lets in more than it seems to.
    if not all(re.fullmatch(r"\*|https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", origin) for origin in origins):
        raise ValueError("must be origins such as `https://shop.example`, separated by commas: no path, and no part left open by *")
    return origins


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _log_level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return text.upper()


def _seed(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("must be 64 hexadecimal digits; use `openssl rand -hex 32`")
    return text.lower()


def _long(text: str) -> str:
    if len(text.encode()) < 32:
        raise ValueError("must be at least 32 bytes")
    return text


def _all_long(text: str) -> tuple[str, ...]:
    keys = _list(text)
    if any(len(key.encode()) < 32 for key in keys):
        raise ValueError("must be keys of at least 32 bytes each, separated by commas")
    return keys


def _keys(text: str) -> tuple[str, ...]:
    keys = _list(text)
    if not all(re.fullmatch(r"[0-9a-fA-F]{64}", key) for key in keys):
        raise ValueError("must be keys of 64 hexadecimal digits, separated by commas")
    return keys


def _setting(env: str, default: Any, parse: Callable[[str], Any], help: str, secret: bool = False) -> Any:
    return field(default=default, metadata={"env": env, "parse": parse, "help": help, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one process. Build it with `Config.from_env()`."""

    env: Environment = _setting(
        "BANK_ENV", "production", _environment, "Which profile: development, test or production. Production checks for unsafe values."
    )
    debug: bool = _setting(
        "FLASK_DEBUG", False, _flask_debug, "Whether Flask runs for whoever looks for a mistake in it. Refused in production."
    )
    database_url: str = _setting("DATABASE_URL", "", _postgres_url, "Where PostgreSQL is. Required.", secret=True)
    database_owner_url: str = _setting(
        "DATABASE_OWNER_URL",
        "",
        _postgres_url,
        "The same database as the role that owns its tables: for `bank migrate`, `bank rebuild` and `bank restore`, which give that of "
        "`DATABASE_URL` the rights it needs, and for no other process. None by default: one role is both, and could drop what keeps the "
        "log from being changed.",
        secret=True,
    )
    database_replica_url: str = _setting(
        "DATABASE_REPLICA_URL",
        "",
        _postgres_url,
        "Where a streaming replica of it is, to be read from. None by default: everything is read from the primary.",
        secret=True,
    )
    replica_max_lag_seconds: int = _setting(
        "BANK_REPLICA_MAX_LAG_SECONDS",
        5,
        _whole(1, 300),
        "By how many seconds the replica may be behind while the primary answers. When that is away, it is read as it is.",
    )
    redis_url: str = _setting("REDIS_URL", "", _redis_url, "Where Redis is. Required.", secret=True)
    trusted_network: bool = _setting(
        "BANK_TRUSTED_NETWORK",
        False,
        _yes_or_no,
        "Whether nobody else can listen on the way to PostgreSQL: production then takes one on another machine without TLS.",
    )
    jwt_secret: str = _setting("JWT_SECRET_KEY", "", str, "Signs the tokens (HS256): at least 32 bytes. Required.", secret=True)
    old_jwt_secrets: tuple[str, ...] = _setting(
        "JWT_OLD_SECRET_KEYS",
        (),
        _all_long,
        "What else `JWT_SECRET_KEY` was, or will be next, separated by commas: what these signed is taken, and they sign nothing.",
        secret=True,
    )
    access_token_seconds: int = _setting("BANK_ACCESS_TOKEN_SECONDS", 900, _whole(10, 86_400), "How long an access token lives.")
    refresh_token_seconds: int = _setting(
        "BANK_REFRESH_TOKEN_SECONDS", 2_592_000, _whole(60, 31_536_000), "How long a login lives when it is not refreshed."
    )
    password_min_length: int = _setting("BANK_PASSWORD_MIN_LENGTH", 12, _whole(8, 64), "The shortest password taken, in characters.")
    totp_for_admins: bool = _setting(
        "BANK_TOTP_FOR_ADMINS",
        False,
        _yes_or_no,
        "Whether administrators must have a second factor: one who has none can only enrol.",
    )
    totp_key: str = _setting(
        "BANK_TOTP_KEY",
        "",
        _long,
        "Encrypts the secrets of second factors: at least 32 bytes. None by default: `JWT_SECRET_KEY` does, whose old value belongs here "
        "when that is changed.",
        secret=True,
    )
    self_service_deposits: bool = _setting(
        "BANK_SELF_SERVICE_DEPOSITS",
        False,
        _yes_or_no,
        "Customers may credit their own accounts: play money for development, refused in production.",
    )
    lanes: int = _setting(
        "BANK_LANES",
        2,
        _whole(1, 256),
        "Over how many lanes the posting is spread: about one for each core that posts. May be raised at any time, by "
        "`bank migrate` first; lanes that hold rows stay.",
    )
    batch_size: int = _setting("BANK_BATCH_SIZE", 500, _whole(1, 5_000), "How many transactions a drain posts in one commit, at most.")
    worker_threads: int = _setting("BANK_WORKER_THREADS", 4, _whole(1, 64), "Lanes that one worker process drains at once.")
    web_threads: int = _setting(
        "BANK_WEB_THREADS",
        16,
        _whole(1, 256),
        "Requests that one web process answers at once; at most half of them wait for an outcome.",
    )
    shed_after_seconds: int = _setting(
        "BANK_SHED_AFTER_SECONDS",
        30,
        _whole(1, 31_536_000),
        "When a transaction has waited this long in a lane, the lane takes no more (503) until its queue is shorter.",
    )
    cache: bool = _setting(
        "BANK_CACHE",
        True,
        _yes_or_no,
        "Whether accounts, balances, users and rates are shown out of Redis, while `bank follow` keeps them up.",
    )
    cors_origins: tuple[str, ...] = _setting(
        "BANK_CORS_ORIGINS", (), _origins, "Origins whose pages may call the API, separated by commas. None by default."
    )
    rate_limit_enabled: bool = _setting(
        "RATELIMIT_ENABLED", True, _yes_or_no, "Whether requests are limited. Switching it off is refused in production."
    )
    rate_limit_default: str = _setting("BANK_RATE_LIMIT", "6000 per minute", _rate, "Requests a caller may make, over all routes.")
    rate_limit_auth: str = _setting(
        "BANK_RATE_LIMIT_AUTH",
        "60 per minute",
        _rate,
        "Logins and registrations an address may try, and confirmations by password a user may; the throttle for wrong ones comes on top.",
    )
    trusted_proxies: int = _setting(
        "BANK_TRUSTED_PROXIES",
        0,
        _whole(0, 10),
        "How many proxies stand in front of the API: the address of a caller is taken from that many entries of X-Forwarded-For.",
    )
    public_docs: bool | None = _setting(
        "BANK_PUBLIC_DOCS",
        None,
        _yes_or_no,
        "Whether anybody gets `/docs` and `/openapi.json`, which are not there otherwise. By default they are, but not in production.",
    )
    metrics_token: str = _setting(
        "BANK_METRICS_TOKEN",
        "",
        _long,
        "Whoever sends it (`Authorization: Bearer`) gets `/metrics`: at least 32 bytes. None by default: in production nobody gets them, "
        "elsewhere everybody.",
        secret=True,
    )
    seal_key: str = _setting(
        "BANK_SEAL_KEY",
        "",
        _seed,
        "Signs the blocks of the sealed log (Ed25519): a seed of 64 hexadecimal digits. Needed by `bank follow` alone.",
        secret=True,
    )
    seal_public_keys: tuple[str, ...] = _setting(
        "BANK_SEAL_PUBLIC_KEYS",
        (),
        _keys,
        "Public keys whose seals are trusted besides that of `BANK_SEAL_KEY`, separated by commas: those of before it was changed.",
    )
    freeze_on_violation: bool = _setting(
        "BANK_FREEZE_ON_VIOLATION",
        False,
        _yes_or_no,
        "Whether the customers' accounts concerned are frozen when the sample of the books finds a violation.",
    )
    fx_spread: int = _setting(
        "BANK_FX_SPREAD", 50, _whole(0, 1_000), "What the bank keeps of a rate when money is exchanged, in hundredths of a percent."
    )
    fx_max_age_days: int = _setting(
        "BANK_FX_MAX_AGE_DAYS",
        5,
        _whole(0, 99_999),
        "For how many days after its own a rate counts. Over Easter none is published for five. More than 14 is refused in production.",
    )
    fx_url: str = _setting(
        "BANK_FX_URL",
        "",
        _https_url,
        "Where the European Central Bank publishes its reference rates (`eurofxref-hist.zip`), asked every hour. "
        "None by default: the copy that is installed with the bank, which ends when that was made. In production it must be outside: no "
        "private address, but by a proxy (`HTTPS_PROXY`).",
    )
    metrics_port: int = _setting(
        "BANK_METRICS_PORT",
        0,
        _whole(0, 65_535),
        "Where a worker shows its metrics, on every address of its machine. 0 is nowhere: processes that share a directory of metrics "
        "leave them to `/metrics`.",
    )
    traces_url: str = _setting(
        "BANK_TRACES_URL",
        "",
        _collector_url,
        "Where traces are sent, by OTLP over HTTP: the address of a collector, without `/v1/traces`. None by default: nothing is traced.",
    )
    traces_percent: int = _setting(
        "BANK_TRACES_PERCENT",
        10,
        _whole(0, 100),
        "Of how many of a hundred requests the trace is kept, where a request does not say itself whether it is (`traceparent`).",
    )
    log_level: str = _setting("BANK_LOG_LEVEL", "INFO", _log_level, "The least level that is logged.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Config":
        """The configuration in `environ` (default: the process's environment).

        A secret may be given as a file (`NAME_FILE`). Raises ConfigError with a line for every variable that is missing,
        malformed or, in production, unsafe, and for every file that cannot be read.
        """
        config, wrong = cls._read(os.environ if environ is None else environ)
        if config.env == "production":
            wrong += unsafe(config)
        _refuse(wrong)
        return config

    @classmethod
    def check(cls, environ: Mapping[str, str], production: bool = False) -> tuple["Config", list[Finding]]:
        """What of `environ` is usable, and all that is wrong with it; with `production` as that would see it, whatever BANK_ENV says."""
        config, wrong = cls._read(environ)
        if production:
            config = replace(config, env="production")
        return config, wrong + (unsafe(config) if config.env == "production" else [])

    @classmethod
    def _read(cls, given: Mapping[str, str]) -> tuple["Config", list[Finding]]:
        environ, wrong = _with_files(given)
        values: dict[str, Any] = {}
        for setting in fields(cls):
            name = setting.metadata["env"]
            text = environ.get(name, "")
            if not text:
                continue
            try:
                values[setting.name] = setting.metadata["parse"](text)
            except ValueError as error:
                wrong.append(Finding(name, str(error), setting.metadata["help"], "Correct it, or leave it out where it has a default."))
        config = cls(**values)
        # One that is there, and no use, is not missing.
        found = {each.setting.removesuffix("_FILE") for each in wrong}
        return config, wrong + [each for each in config._missing() if each.setting not in found]

    @property
    def signing_keys(self) -> tuple[str, ...]:
        """What tokens, cursors and cookies may be signed by, as itsdangerous takes them: the last one is the one that signs."""
        return (*self.old_jwt_secrets, self.jwt_secret)

    def as_owner(self) -> "Config":
        """The same for who changes the schema: connects as the role that owns the tables, where that is another one."""
        return replace(self, database_url=self.database_owner_url or self.database_url)

    @property
    def has_docs(self) -> bool:
        """Whether `/docs` and `/openapi.json` are there."""
        return self.env != "production" if self.public_docs is None else self.public_docs

    @property
    def has_metrics(self) -> bool:
        """Whether somebody gets `/metrics`."""
        return self.env != "production" or bool(self.metrics_token)

    def _missing(self) -> list[Finding]:
        wrong = []
        if not self.database_url:
            wrong.append(
                Finding("DATABASE_URL", "is required", "Everything is kept there.", "Give it postgresql://user:password@host/database.")
            )
        if not self.redis_url:
            wrong.append(Finding("REDIS_URL", "is required", "Workers are rung by it.", "Give it redis://:password@host:6379/0."))
        # RFC 7518, 3.2: a key of the size of the hash output or larger.
        if len(self.jwt_secret.encode()) < 32:
            wrong.append(Finding("JWT_SECRET_KEY", "must be at least 32 bytes", "Who guesses it can be anybody.", MAKE_ONE))
        return wrong


# What may be given as a file, NAME_FILE in the place of NAME: orchestrators hand secrets out so, and an environment is
# shown by more commands than a file is read by.
SECRETS = (*(setting.metadata["env"] for setting in fields(Config) if setting.metadata["secret"]), "BANK_ADMIN_PASSWORD")


def secrets_of(config: Config) -> set[str]:
    """What of a configuration must be seen nowhere; the URLs of servers whole, and the keys of a list one by one."""
    values = [getattr(config, setting.name) for setting in fields(Config) if setting.metadata["secret"]]
    return {each for value in values for each in ((value,) if isinstance(value, str) else value)} - {""}


def with_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with what the files of secrets hold in the place of their names, for who reads more of it than `Config` does.

    Raises ConfigError with a line for every secret that is given twice or whose file cannot be read.
    """
    found, wrong = _with_files(environ)
    _refuse(wrong)
    return found


def _with_files(environ: Mapping[str, str]) -> tuple[dict[str, str], list[Finding]]:
    found, wrong = dict(environ), []
    for name in SECRETS:
        path = found.pop(f"{name}_FILE", "")
        if not path:
            continue
        # Somebody may have given the secret itself in the place of its file.
        shown = path if Path(path).is_absolute() else "what it names"
        why, remedy = "What is secret may be given as a file.", "Name a file that the bank's user can read and that holds the secret alone."
        if found.get(name):
            both = f"{name}, {name}_FILE"
            wrong.append(Finding(both, "only one of the two may be given", "Which one counts would be a guess.", "Leave one of them out."))
            continue
        try:
            # Editors and `echo` end a file with a line break that is no part of the secret.
            found[name] = Path(path).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            wrong.append(Finding(f"{name}_FILE", f"{shown} cannot be read: {reason}", why, remedy))
            continue
        if not found[name]:
            wrong.append(Finding(f"{name}_FILE", f"{shown} is empty", why, remedy))
    return found, wrong


def _refuse(wrong: list[Finding]) -> None:
    if wrong:
        raise ConfigError("The configuration is not usable:\n" + "\n".join(f"  {each.setting}: {each.wrong}" for each in wrong))
