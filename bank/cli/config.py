"""`bank config`: the settings, before anything starts with them."""

import os

import click

from bank.config import Config


@click.group("config")
def command() -> None:
    """Look at the settings of the environment.

    They are what the processes of the bank would be started with here: the variables, and the files that NAME_FILE names. Nothing
    is connected to, and no value is shown.
    """


@command.command("check")
@click.option("--production", is_flag=True, help="Hold it against what production refuses, whatever BANK_ENV says.")
def check(production: bool) -> None:
    """Tell what is wrong or unsafe in the settings, why that matters, and what to do.

    Unsafe is what stops the start in production; elsewhere it may be meant.

    Exit code: 0 and "ok" when all is well, 1 when something is not.
    """
    config, findings = Config.check(os.environ, production)
    for finding in findings:
        click.echo(f"{finding.setting}: {finding.wrong}\n  Why: {finding.why}\n  What to do: {finding.remedy}")
    if findings:
        click.get_current_context().exit(1)
    click.echo(f"ok ({config.env})")
