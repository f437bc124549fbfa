"""`bank config check`, and what production refuses to start with."""

import base64
import secrets

import pytest
from click.testing import CliRunner

from bank.cli import main
from bank.config import Config, ConfigError
from bank.web.limits import settings

# Not random: it is in the names of tests, which must be the same in every process.
KEY = "8c1f0b6e94d27a35e0f3b9c8d6a1572493be6f08c7d15a2e4b90f7631d8ce25a"

# What production takes.
SAFE = {
    "DATABASE_URL": f"postgresql://bank:{secrets.token_hex(8)}@database.example/bank?sslmode=verify-full",
    "DATABASE_OWNER_URL": f"postgresql://bank_owner:{secrets.token_hex(8)}@database.example/bank?sslmode=verify-full",
    "DATABASE_REPLICA_URL": f"postgresql://bank:{secrets.token_hex(8)}@[2001:db8::1]:5433/bank?sslmode=require",
    "REDIS_URL": f"rediss://:{secrets.token_hex(8)}@redis.example:6379/0",
    "JWT_SECRET_KEY": KEY,
    "JWT_OLD_SECRET_KEYS": f"{secrets.token_urlsafe(32)},{secrets.token_hex(32)}",
    "BANK_TOTP_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
    "BANK_METRICS_TOKEN": secrets.token_urlsafe(32),
    "BANK_SEAL_KEY": secrets.token_hex(32),
    "BANK_CORS_ORIGINS": "https://shop.example, http://127.0.0.1:3000",
}

# Neither is random: the names of tests must be the same in every process.
GOOD_KEY, GOOD_PASSWORD = "71e0b9d24ca85f3617d8e2b0f94a6c53", "w0nt-guess-this"

UNSAFE = [
    ("JWT_SECRET_KEY", "short"),
    ("JWT_SECRET_KEY", "0123456789abcdef" * 2),
    ("JWT_SECRET_KEY", "abcdefghijklmnopqrstuvwxyz0123456789"),
    ("JWT_SECRET_KEY", "9876543210zyxwvutsrqponmlkjihgfedcba"),
    ("JWT_SECRET_KEY", "k7Qw2xLm9Zp4k7Qw2xLm9Zp4k7Qw2xLm9Zp4k7Q"),
    ("JWT_SECRET_KEY", "please-change-me-before-you-go-to-production"),
    ("JWT_SECRET_KEY", "x" * 64),
    ("JWT_OLD_SECRET_KEYS", f"{GOOD_KEY},{'0123456789abcdef' * 2}"),
    ("BANK_TOTP_KEY", "fedcba9876543210" * 2),
    ("BANK_METRICS_TOKEN", "prometheus-prometheus-prometheus"),
    ("BANK_SEAL_KEY", "0123456789abcdef" * 4),
    ("BANK_METRICS_TOKEN", KEY),
    ("BANK_SEAL_KEY", KEY),
    ("BANK_FX_URL", "https://10.0.0.1/eurofxref-hist.zip"),
    ("BANK_FX_URL", "https://[::1]/eurofxref-hist.zip"),
    ("BANK_FX_URL", "https://localhost/eurofxref-hist.zip"),
    ("DATABASE_URL", "postgresql://bank:postgres@localhost/bank"),
    ("DATABASE_URL", "postgresql://bank:Bank@localhost/bank"),
    ("REDIS_URL", "rediss://:changeme@redis.example:6379/0"),
    ("FLASK_DEBUG", "1"),
    ("FLASK_DEBUG", "anything"),
    ("BANK_SELF_SERVICE_DEPOSITS", "true"),
    ("RATELIMIT_ENABLED", "false"),
    ("BANK_FX_MAX_AGE_DAYS", "15"),
    ("BANK_CORS_ORIGINS", "*"),
    ("BANK_CORS_ORIGINS", "https://shop.example,*"),
    # TLS that may be left out is none.
    *(
        (name, f"postgresql://bank:{GOOD_PASSWORD}@{rest}")
        for name in ("DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_REPLICA_URL")
        for rest in (
            "database.example/bank",
            "10.0.0.1/bank",
            "database.example/bank?sslmode=prefer",
            "database.example/bank?sslmode=disable",
            "database.example/bank?sslmode=require&sslmode=disable",
            "[2001:db8::1]:5433/bank",
            "localhost.example/bank",
            "127.0.0.1.example/bank",
            "/bank?host=database.example",
            "/bank?host=/run/postgresql,database.example:5432",
            "localhost/bank?hostaddr=10.0.0.1",
        )
    ),
    ("DATABASE_URL", "postgres://database.example"),
    ("REDIS_URL", "redis://redis.example:6379/0"),
    ("REDIS_URL", "rediss://somebody@10.0.0.1"),
    ("REDIS_URL", "redis://:w0nt-guess@redis.example:6379/0"),
    ("REDIS_URL", "redis://redis.example?password=w0nt-guess"),
    ("REDIS_URL", "redis:///0?host=redis.example"),
]

# What is no use anywhere.
WRONG = [
    ("BANK_ENV", "prod"),
    ("DATABASE_URL", "sqlite:///bank.db"),
    ("REDIS_URL", "memory://"),
    ("JWT_OLD_SECRET_KEYS", "short"),
    ("BANK_TOTP_KEY", "short"),
    ("BANK_METRICS_TOKEN", "short"),
    ("BANK_SEAL_KEY", "short"),
    ("BANK_LANES", "0"),
    ("BANK_RATE_LIMIT", "very often"),
    ("BANK_RATE_LIMIT_AUTH", "10 per fortnight"),
    ("BANK_TRUSTED_NETWORK", "yes"),
    ("BANK_CORS_ORIGINS", ".*"),
    ("BANK_CORS_ORIGINS", "https://*.example"),
    ("BANK_CORS_ORIGINS", "https://shop.example/"),
    ("BANK_CORS_ORIGINS", "null"),
]


def check(environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    # What the machine that tests has set is not meant.
    done = CliRunner().invoke(main, ["config", "check", *arguments], env={"BANK_ENV": "", "BANK_DATA_DIR": "/nowhere", **environ})
    return done.exit_code, done.output


def test_what_is_safe_is_ok() -> None:
    assert check(SAFE) == (0, "ok (production)\n")
    assert Config.from_env(SAFE).env == "production"


@pytest.mark.parametrize(
    "changes",
    [
        {"DATABASE_URL": "postgresql:///bank", "REDIS_URL": "unix:///run/redis.sock"},
        {"DATABASE_URL": "postgresql://bank@/bank?host=/run/postgresql", "REDIS_URL": "redis://localhost"},
        {"DATABASE_URL": "postgresql://bank:w0nt-guess@127.0.0.2:5432/bank", "REDIS_URL": "redis://[::1]:6379"},
        {"DATABASE_URL": "postgresql://bank:w0nt-guess@database/bank", "BANK_TRUSTED_NETWORK": "true"},
        {"FLASK_DEBUG": "0", "REDIS_URL": "rediss://somebody:w0nt-guess@redis.example"},
        {"REDIS_URL": "rediss://redis.example?password=w0nt-guess"},
        {"REDIS_URL": "redis://:w0nt-guess@redis.example", "BANK_TRUSTED_NETWORK": "true"},
    ],
    ids=str,
)
def test_what_stays_on_this_machine_or_is_said_to_be_trusted_is_ok(changes: dict[str, str]) -> None:
    assert check({**SAFE, "DATABASE_OWNER_URL": "", "DATABASE_REPLICA_URL": "", **changes}) == (0, "ok (production)\n")


@pytest.mark.parametrize(("name", "value"), UNSAFE)
def test_what_is_unsafe_is_told_and_stops_the_start_in_production_alone(name: str, value: str) -> None:
    code, told = check({**SAFE, name: value})
    assert code == 1 and told.startswith(f"{name}: ")
    # That setting and no other, with a reason and a way out.
    assert [line.split(": ")[0] for line in told.splitlines()] == [name, "  Why", "  What to do"]
    with pytest.raises(ConfigError, match=f"^The configuration is not usable:\n  {name}: "):
        Config.from_env({**SAFE, name: value})
    if value != "short":
        assert check({**SAFE, name: value, "BANK_ENV": "development"}) == (0, "ok (development)\n")
        assert check({**SAFE, name: value, "BANK_ENV": "development"}, "--production") == (1, told)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_is_wrong_is_told_everywhere(name: str, value: str) -> None:
    code, told = check({**SAFE, "BANK_ENV": "test", name: value})
    assert code == 1
    assert [line.split(": ")[0] for line in told.splitlines()] == [name, "  Why", "  What to do"]
    with pytest.raises(ConfigError, match=f"{name}: "):
        Config.from_env({**SAFE, "BANK_ENV": "test", name: value})


def test_what_is_missing_is_told_all_at_once() -> None:
    code, told = check(dict.fromkeys(SAFE, ""))
    assert code == 1
    assert [line.split(": ")[0] for line in told.splitlines()[::3]] == ["DATABASE_URL", "REDIS_URL", "JWT_SECRET_KEY"]


@pytest.mark.parametrize(("name", "value"), [*UNSAFE, *WRONG])
def test_no_secret_is_shown(name: str, value: str) -> None:
    _, told = check({**SAFE, name: value})
    shown = [secret for secret in {**SAFE, name: value}.values() if len(secret) > 12 and secret in told]
    assert shown == []
    assert not any(part in told for part in value.split("@")[0].split(":")[1:] if "://" in value and len(part) > 12)


def test_a_secret_in_the_place_of_its_file_is_not_shown_either() -> None:
    planted = secrets.token_urlsafe(48)
    code, told = check({**SAFE, "JWT_SECRET_KEY": "", "JWT_SECRET_KEY_FILE": planted})
    assert code == 1 and planted not in told
    assert told.startswith("JWT_SECRET_KEY_FILE: what it names cannot be read") and told.count("Why: ") == 1


@pytest.mark.parametrize("length", [32, 64])
def test_random_keys_are_not_regular(length: int) -> None:
    for _ in range(200):
        for key in (secrets.token_hex(32), secrets.token_urlsafe(length)):
            Config.from_env({**SAFE, "JWT_SECRET_KEY": key})


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://localhost", "unix:///run/redis.sock"])
def test_limits_are_counted_in_redis_and_never_in_memory_alone(url: str) -> None:
    from limits.storage import RedisStorage, storage_from_string

    uri = settings(Config.from_env({**SAFE, "REDIS_URL": url}))["RATELIMIT_STORAGE_URI"]
    assert isinstance(storage_from_string(uri), RedisStorage)
