"""`bank follow`: what reads the log of events and goes on from it."""

import signal
from threading import Event

import click
import structlog

from bank import create_app
from bank.audit import outcomes
from bank.config import Config, ConfigError
from bank.followers.runner import Gather, Inside, Runner
from bank.proof import blocks
from bank.proof.sealer import BLOCK_EVENTS, Sealer

log = structlog.get_logger(__name__)

# What is not a full block is sealed after this time.
_SEAL_SECONDS = 1.0


@click.command("follow")
def command() -> None:
    """Seal the log of events into signed blocks, and keep up what else is made from it.

    Keep one running, under a supervisor. A second one does no harm: it stands by. Needs BANK_SEAL_KEY.
    """
    try:
        config = Config.from_env()
        key = blocks.signing_key(config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    app = create_app(config)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    runner = Runner([Inside("seal", Sealer(key).take, Gather(_SEAL_SECONDS, BLOCK_EVENTS)), Inside("audit", outcomes.take)])
    with app.app_context():
        log.info("following", public_key=blocks.public_bytes(key).hex())
        runner.run(stop)
