"""`bank migrate`: bring the schema up to date and put in what a bank cannot be without."""

import os
from pathlib import Path

import click
from flask import Flask
from flask_migrate import Migrate, upgrade
from sqlalchemy import text

from bank import create_app
from bank.accounts.service import ensure_all_outside
from bank.auth import passwords
from bank.cli import rights
from bank.config import Config, with_secrets
from bank.db import db, unit_of_work
from bank.errors import Unprocessable
from bank.events.types import Origin
from bank.ledger.system import every_lane
from bank.users import service as users
from bank.users.models import Role


@click.command("migrate")
def command() -> None:
    """Upgrade the schema, give the bank's role its rights, add lanes, and make the administrator `admin` where there is none.

    The administrator's password is taken from BANK_ADMIN_PASSWORD, and only at the first time: later it
    is changed through the API. Safe to run again and while the bank runs.
    """
    config = Config.from_env()
    app = create_app(config.as_owner())
    environ = with_secrets(os.environ)
    with app.app_context():
        bind(app)
        upgrade()
        rights.grant(config)
        add_lanes(app.config["BANK"])
        make_administrator(environ.get("BANK_ADMIN_PASSWORD"), app.config["BANK"].password_min_length)


def bind(app: Flask) -> None:
    """Let flask-migrate find the application's database and the migrations. Only who migrates pays for loading Alembic."""
    Migrate(app, db, compare_type=True, directory=str(Path(app.root_path).parent / "migrations"))


def add_lanes(config: Config) -> None:
    """Make lanes 0 to `lanes` - 1 and that of the batches, and the bank's own accounts on them."""
    with unit_of_work() as session:
        session.execute(
            text("INSERT INTO lanes (lane) SELECT unnest(CAST(:lanes AS smallint[])) ON CONFLICT DO NOTHING"),
            {"lanes": every_lane(config.lanes)},
        )
    ensure_all_outside(Origin())


def make_administrator(password: str | None, min_length: int) -> None:
    """Make the user `admin` with that password, unless there is one. Without a password, nobody is made.

    Raises ClickException for a password that a customer might not have either.
    """
    if not password:
        return
    with unit_of_work() as session:
        if session.execute(text("SELECT 1 FROM users WHERE lower(username) = 'admin'")).one_or_none():
            return
    username, email = "admin", "admin@bank.example"
    try:
        passwords.check_acceptable(password, min_length=min_length, personal=[username, email])
    except Unprocessable as error:
        raise click.ClickException(f"BANK_ADMIN_PASSWORD: {(error.errors or [])[0]['message']}") from error
    hashed = passwords.hash(password)
    with unit_of_work() as session:
        users.create_user(session, username=username, email=email, password_hash=hashed, role=Role.ADMIN, origin=Origin())
