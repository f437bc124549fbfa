"""`bank backup`: the whole bank as one directory."""

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import click
import orjson
from rich.console import Console

from bank import create_app
from bank.cli.postgres import BackupFailed, dump
from bank.cli.telling import Unknown
from bank.config import Config, ConfigError
from bank.db import reader
from bank.errors import BankError
from bank.proof import blocks

# What a backup holds: the dump in pg_dump's custom format, and the head of the sealed log as GET /events/head gives it.
DUMP = "bank.dump"
HEAD = "head.json"


@click.command("backup")
@click.argument("directory", type=click.Path(path_type=Path))
def command(directory: Path) -> None:
    """Write a backup of the bank to DIRECTORY, which must not exist yet.

    Safe while the bank runs: it is the bank as it was at one moment, and waits for nobody. Beside the dump lies the signed head of the
    sealed log, by which `bank restore` sees that what it brings back is what was sealed; keep a copy of that elsewhere. Redis is
    not in it: what is there is made again. The backup holds personal data and hashes of passwords, and is readable by its owner only.

    Exit code: 0 when it is complete, 2 when there is none.
    """
    if directory.exists():
        raise Unknown(f"{directory} is there already.")
    # Under another name until it is complete: what lies there under its own is a whole backup.
    draft = directory.with_name(f"{directory.name}.partial")
    started = time.monotonic()
    try:
        config = replace(Config.from_env(), log_level="WARNING")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        # Before the dump, which then holds the block that it names.
        sealed = _write_head(config, draft / HEAD)
        dump(config.database_url, draft / DUMP)
        draft.rename(directory)
    except (ConfigError, BankError, BackupFailed, OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise Unknown(str(error)) from error
    size = (directory / DUMP).stat().st_size
    console = Console(highlight=False, markup=False)
    console.print(f"{directory}: {size / 1_000_000:,.1f} MB in {time.monotonic() - started:.1f} s.", soft_wrap=True)
    console.print(f"Sealed up to event {sealed:,}." if sealed else "Nothing was sealed: there is no head to verify by.")


def _write_head(config: Config, file: Path) -> int:
    """Write the newest block's header and signature; the position up to which it seals, 0 (and no file) where there is none."""
    with create_app(config).app_context(), reader() as session:
        block = blocks.last_block(session)
        if block is None:
            return 0
        file.write_bytes(orjson.dumps(blocks.present(block)))
        return block.last
