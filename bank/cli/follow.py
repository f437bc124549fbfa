"""`bank follow`: what reads the log of events and goes on from it."""

import signal
from threading import Event

import click
import structlog
from flask import Flask
from redis.exceptions import RedisError

from bank import create_app
from bank.audit import outcomes
from bank.cli.cache import fill, most_active
from bank.config import Config, ConfigError
from bank.errors import Unavailable
from bank.followers.runner import Follower, Gather, Inside, Runner
from bank.proof import keys
from bank.proof.sealer import BLOCK_EVENTS, NAME, Sealer
from bank.resilience.refresher import Refresher

log = structlog.get_logger(__name__)

# How many accounts are put into the cache at the start.
_WARMED = 1_000

# What is not a full block is sealed after this time.
_SEAL_SECONDS = 1.0


@click.command("follow")
def command() -> None:
    """Seal the log of events into signed blocks, and keep up what else is made from it.

    Keep one running, under a supervisor. A second one does no harm: the two share the work. Needs BANK_SEAL_KEY.
    """
    try:
        config = Config.from_env()
        if not config.seal_key:
            raise ConfigError("The configuration is not usable:\n  BANK_SEAL_KEY: is required where the log is sealed")
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    key = keys.private_key(config.seal_key)
    app = create_app(config)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sealer = Sealer(key, [bytes.fromhex(public_key) for public_key in config.seal_public_keys])
    refresher = Refresher(app.extensions["cache"]) if config.cache else None
    sealing = Inside(NAME, sealer.take, Gather(_SEAL_SECONDS, BLOCK_EVENTS))
    followers: list[Follower] = [sealing, Inside("audit", outcomes.take)]
    runner = Runner([*followers, refresher.follower], refresher.tell) if refresher else Runner(followers)
    with app.app_context():
        log.info("following", public_key=keys.public_half(key).hex())
        if config.cache:
            _warm(app)
        runner.run(stop)


def _warm(app: Flask) -> None:
    try:
        accounts = most_active(_WARMED)
        fill(app.extensions["cache"], accounts, lambda *_: None)
        log.info("cache_warmed", accounts=len(accounts))
    except (Unavailable, RedisError) as error:
        # It fills by being read.
        log.warning("cache_not_warmed", error=str(error))
