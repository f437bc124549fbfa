"""`bank cache`: what is kept in Redis to be shown."""

from collections.abc import Callable, Sequence
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

# By the last transactions, ten for each account that is asked for: however long the history, so many rows are read.
_MOST_ACTIVE = text(
    """
    SELECT a.id::text
      FROM (SELECT from_account_id, to_account_id FROM transactions ORDER BY seq DESC LIMIT 10 * CAST(:count AS bigint)) t
     CROSS JOIN LATERAL unnest(ARRAY[from_account_id, to_account_id]) AS side (id)
      JOIN accounts a ON a.id = side.id AND a.kind = 'customer'
     GROUP BY a.id ORDER BY count(*) DESC, a.id LIMIT :count
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
    """Put the accounts in that moved most of late, with their balances: as after Redis has lost everything.

    What is there and newer stays. It ends by itself after a minute in which nobody's money moved.
    """
    try:
        app = create_app(replace(Config.from_env(), log_level="WARNING"))
        cache: Cache = app.extensions["cache"]
        with app.app_context():
            redis().ping()
            accounts = most_active(count)
            with progress(len(accounts)) as watch:
                fill(cache, accounts, watch)
    except (ConfigError, BankError, RedisError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(accounts):,} accounts are in the cache.")


def most_active(count: int) -> list[str]:
    """The ids of the customers' accounts that were party to the most of the last transactions, at most `count`. Raises Unavailable."""
    with reader(READER) as session:
        return list(session.execute(_MOST_ACTIVE, {"count": count}).scalars())


def fill(cache: Cache, accounts: Sequence[str], watch: Callable[[str, int], None]) -> None:
    """Put in these accounts and their balances, and tell `watch` how many are done. Raises Unavailable and RedisError."""
    for done in range(0, len(accounts), _AT_ONCE):
        for kind in ("account", "balance"):
            cache.warm(kind, accounts[done : done + _AT_ONCE])
        watch("Warming", done)
