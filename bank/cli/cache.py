"""`bank cache`: what is kept in Redis to be shown."""

from collections.abc import Callable
from dataclasses import replace

import click
from redis.exceptions import RedisError
from sqlalchemy import text

from bank import create_app
from bank.cli.progress import progress
from bank.config import Config, ConfigError
from bank.db import READER, reader
from bank.errors import BankError
from bank.processing.queue import redis
from bank.resilience.cache import Cache

# So many accounts are read by one statement.
_AT_ONCE = 500

# How many `bank follow` puts in when it starts: a second's work.
AT_START = 1_000

# By the entries of today and of the day before.
_MOST_ACTIVE = text(
    """
    SELECT d.account_id::text FROM daily_balances d JOIN accounts a ON a.id = d.account_id AND a.kind = 'customer'
     WHERE d.day >= CURRENT_DATE - 1 GROUP BY d.account_id ORDER BY sum(d.count) DESC, d.account_id LIMIT :count
    """
)


@click.group("cache")
def command() -> None:
    """Look after what is kept in Redis to be shown: accounts, balances, users and rates.

    Nothing is decided by it. `bank follow` keeps it up; while that does not run, it is not used.
    """


@command.command("warm")
@click.option("--count", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="How many accounts.")
def warm(count: int) -> None:
    """Put the accounts in that moved most, today and yesterday, with their balances: as after Redis has lost everything.

    What is there and newer stays. It ends by itself after a minute in which nobody's money moved.
    """
    try:
        app = create_app(replace(Config.from_env(), log_level="WARNING"))
        cache: Cache = app.extensions["cache"]
        with app.app_context():
            redis().ping()
            with progress(count) as watch:
                warmed = fill(cache, count, watch)
    except (ConfigError, BankError, RedisError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{warmed:,} accounts are in the cache.")


def fill(cache: Cache, count: int, watch: Callable[[str, int], None]) -> int:
    """Put in the accounts that moved most, `count` at most, and tell `watch` how many are done; how many there were.

    Raises Unavailable and RedisError.
    """
    with reader(READER) as session:
        accounts = list(session.execute(_MOST_ACTIVE, {"count": count}).scalars())
    for done in range(0, len(accounts), _AT_ONCE):
        for kind in ("account", "balance"):
            cache.warm(kind, accounts[done : done + _AT_ONCE])
        watch("Warming", done)
    return len(accounts)
