"""`bank run`: the whole bank on one machine, under one supervisor."""

import os
import sys

import click
from rich import box
from rich.table import Table
from rich.text import Text

from bank.cli import plan, telling
from bank.cli.administrator import USERNAME, Administrator
from bank.cli.layout import Layout
from bank.cli.migrated import Migration
from bank.cli.supervisor import StartError, StopRequestedError, Supervisor
from bank.config import Config
from bank.embedded import HOST, EmbeddedError, Server, port_is_free


@click.command("run")
def command() -> None:
    """Run the whole bank on this machine, and keep it running.

    Starts PostgreSQL and Redis on the data directory, brings the schema up to date, then runs the API,
    the workers, the scheduler and the dashboard. What crashes is started again. Ctrl-C and SIGTERM stop
    everything in order. All of it listens on 127.0.0.1 only.

    \b
    Environment:
      PORT                  of the API; 8000 by default
      BANK_DASHBOARD_PORT   of the dashboard; PORT + 1 by default
      BANK_DATA_DIR         what is kept between runs; .data in the clone by default
      DATABASE_URL          a PostgreSQL to use in the place of the embedded one
      REDIS_URL             a Redis to use in the place of the embedded one
      BANK_ADMIN_PASSWORD   the administrator's; made at the first start by default
      BANK_WORKERS          processes that post transactions; 2 by default
      BANK_WEB_WORKERS      processes that answer requests; 2 by default
    """
    try:
        layout = Layout.from_env(os.environ)
        with Supervisor(_say) as supervisor:
            _start(layout, supervisor)
            supervisor.run()
    except StopRequestedError:
        _say("Stopped before the start was complete.")
    except (StartError, EmbeddedError) as error:
        raise click.ClickException(str(error)) from error


def _start(layout: Layout, supervisor: Supervisor) -> None:
    try:
        layout.prepare()
        administrator = Administrator(layout)
    except OSError as error:
        raise StartError(f"The data directory {layout.data_dir} cannot be used: {error}") from error
    for port, setting in ((layout.port, "PORT"), (layout.dashboard_port, "BANK_DASHBOARD_PORT")):
        if not port_is_free(port):
            raise StartError(f"Port {port} is taken by another program. Set {setting} to a free one.")
    servers = layout.servers()
    for server in servers:
        server.open()
    supervisor.start(*(plan.embedded(server) for server in servers))
    environment = layout.environment(servers)
    layout.note(environment)
    migration = Migration(layout, environment)
    if not migration.is_done():
        supervisor.once("migrate", layout.log("migrate"), lambda: plan.migration(layout, environment, administrator.password))
        migration.note()
    needed, more = plan.programs(layout, environment)
    supervisor.launch(*needed)
    place = administrator.place(environment["DATABASE_URL"])
    supervisor.wait(*needed)
    _print_table(layout, servers, place, Config.from_env(environment))
    supervisor.launch(*more)


def _print_table(layout: Layout, servers: list[Server], password_place: str, config: Config) -> None:
    api, dashboard = f"http://{HOST}:{layout.port}", f"http://{HOST}:{layout.dashboard_port}"
    table = Table(title="The bank is running", title_justify="left", show_header=False, box=box.ROUNDED)
    rows = {
        "API": f"{api}/api/v1",
        **({"Swagger UI": f"{api}/docs"} if config.has_docs else {}),
        "rq-dashboard": f"{dashboard}/rq/",
        **({"Metrics": f"{api}/metrics"} if config.has_metrics else {}),
        "Health": f"{api}/health/ready",
        "Administrator": USERNAME,
        "Password in": password_place,
        "Data": str(layout.data_dir),
        "Logs": str(layout.data_dir / "logs"),
    }
    for server in servers:
        # As root the database may have to lie elsewhere; who makes backups must know.
        if server.home != layout.data_dir / server.name:
            rows[f"Data of {server.title}"] = str(server.home)
    for name, value in rows.items():
        table.add_row(name, Text(value, overflow="fold"))  # Text, so that brackets in a path are no markup
    telling.console(markup=False, highlight=False).print(table, "Ctrl-C stops it.", sep="\n")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
