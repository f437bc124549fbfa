"""Sends requests that Schemathesis makes up to a bank of its own, and tells of every answer that should not have been."""

import random
import sys
import tempfile
from pathlib import Path

import click
from flask_migrate import upgrade

from bank import create_app, embedded
from bank.cli.migrate import add_lanes, bind
from bank.config import Config
from tests.conftest import environ_of
from tests.security.fuzzing import Fuzzer, Report


@click.command()
@click.option("--cases", type=click.IntRange(1), default=100_000, show_default=True, help="How many requests.")
@click.option("--seed", type=click.IntRange(0), default=None, help="What they are made from. Another one each time by itself.")
def main(cases: int, seed: int | None) -> None:
    """Fuzz the API by its OpenAPI document, as nobody, two customers, a teller, an auditor and an admin; fails where anything was found."""
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="bank-fuzz-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        # The database's own user must be able to reach it.
        directory.chmod(0o755)
        with embedded.servers(directory) as (database_url, redis_url):
            config = Config.from_env({**environ_of(database_url, redis_url), "BANK_LOG_LEVEL": "ERROR"})
            app = create_app(config)
            with app.app_context():
                bind(app)
                upgrade()
                add_lanes(config)
            report = Fuzzer(app).run(cases, seed, tell=_Teller())
    click.echo(str(report))
    sys.exit(1 if report.finds else 0)


class _Teller:
    """Prints what was found since it was called last, and how far it is."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, report: Report) -> None:
        for (operation, what), shown in list(report.finds.items())[self._told :]:
            click.echo(f"{operation}: {what}\n    {shown}")
        self._told = len(report.finds)
        click.echo(f"{report.cases} cases, {report.seconds:.0f} seconds, {self._told} finds", err=True)


if __name__ == "__main__":
    main()
