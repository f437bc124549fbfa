"""`bank import`: bring a history in from a CSV file."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bank import create_app
from bank.cli.progress import progress
from bank.config import Config, ConfigError
from bank.errors import BankError
from bank.imports.lines import FIELDS, Format
from bank.imports.proof import Report, Sums
from bank.imports.records import Unusable
from bank.imports.service import DEFAULT_OWNER, import_file, try_file
from bank.imports.source import Source
from bank.imports.trial import Trial
from bank.money import InvalidMoney, exponent, format_amount

# Exit codes: something stopped it or a total differs; all is proven, but lines were refused.
FAILED, SOME_REFUSED = 1, 3

# How many mismatches are shown; the rest are counted.
_SHOWN = 20


def _columns(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    columns = {}
    for text in given:
        field, separator, header = text.partition("=")
        if not separator or not header or field not in FIELDS:
            raise click.BadParameter(f"{text!r}: must be FIELD=HEADER, and FIELD one of {', '.join(FIELDS)}.")
        columns[field] = header.strip()
    return columns


def _types(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    types = {"credit": "credit", "debit": "debit"}
    for text in given:
        word, _, kind = text.rpartition("=")
        if not word or kind not in ("credit", "debit"):
            raise click.BadParameter(f"{text!r}: must be WORD=credit or WORD=debit.")
        types[word.strip().casefold()] = kind
    return types


def _delimiter(ctx: click.Context, param: click.Parameter, given: str) -> str:
    delimiter = {"tab": "\t", "\\t": "\t"}.get(given, given)
    if len(delimiter) != 1 or delimiter in '"\r\n' or not delimiter.isascii():
        raise click.BadParameter("must be one character, or `tab`.")
    return delimiter


def _encoding(ctx: click.Context, param: click.Parameter, given: str) -> str:
    try:
        io.TextIOWrapper(io.BytesIO(), given)
    except LookupError as error:
        raise click.BadParameter(f"Python knows no text encoding {given!r}.") from error
    # The same, but a byte order mark is no part of the first column's name.
    return "utf-8-sig" if given.lower().replace("_", "-") in ("utf-8", "utf8") else given


def _currency(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    try:
        return given if given is None or exponent(given) >= 0 else None
    except InvalidMoney as error:
        raise click.BadParameter(str(error)) from error


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--column", "columns", multiple=True, callback=_columns, metavar="FIELD=HEADER",
              help=f"Under which header a field stands, where it is not its own name. FIELD: {', '.join(FIELDS)}.")  # fmt: skip
@click.option("--type", "types", multiple=True, callback=_types, metavar="WORD=credit|debit",
              help="What a word in the type column means; `credit` and `debit` mean themselves.")  # fmt: skip
@click.option("--delimiter", default=",", show_default=True, callback=_delimiter, help="What separates the fields; `tab` for a tabulator.")
@click.option("--encoding", default="utf-8", show_default=True, callback=_encoding, help="How the file's text is encoded.")
@click.option("--date-format", metavar="FORMAT", help="Of the dates, as Python's strptime takes it, e.g. %d.%m.%Y.  [default: ISO 8601]")
@click.option("--century", type=click.IntRange(19, 89), help="Which century a %y is of: 19 makes 93 the year 1993.")
@click.option("--decimal-mark", type=click.Choice([".", ","]), default=".", show_default=True, help="What stands before the decimals.")
@click.option("--thousands-mark", default="", help="What may stand between groups of three digits.  [default: nothing may]")
@click.option("--currency", callback=_currency, help="The currency of lines that name none (ISO 4217).")
@click.option("--owner", default=DEFAULT_OWNER, show_default=True, help="The user who is to own the accounts. The default one is made.")
@click.option("--overdraft-limit", metavar="AMOUNT", help="How far the accounts that are opened may go below zero.  [default: not at all]")
@click.option("--refused", type=click.Path(dir_okay=False, path_type=Path), help="Where refused lines go.  [default: FILE.refused.csv]")
@click.option("--dry-run", is_flag=True, help="Read and check everything, overdrafts included, and write nothing.")
def command(file: Path, owner: str, overdraft_limit: str | None, refused: Path | None, dry_run: bool, **format: object) -> None:
    """Bring the history in FILE in, through the ledger.

    FILE is CSV with a header. Its columns are account, date, type, amount, currency, reference and
    description; the last two may be missing. Each distinct account becomes an account of that name,
    and each line a credit or a debit that counts from its date.

    Run it again after it was killed, and it goes on. Of a file that is in already it changes nothing.

    Exit code: 0 when every account's totals are those of the file, 3 when they are but lines were
    refused, 1 when a total differs or the import stopped.
    """
    console = Console(highlight=False)
    source = Source(file, Format(**format), owner, overdraft_limit)  # type: ignore[arg-type] # click has checked them
    refused = refused or file.with_name(file.name + ".refused.csv")
    try:
        _check(source, refused)
        # The drain logs each batch, which would break the progress bar.
        app = create_app(replace(Config.from_env(), log_level="WARNING"))
        with app.app_context(), progress(source.size()) as watch:
            outcome = try_file(source, watch) if dry_run else import_file(source, refused, watch)
    except (Unusable, ConfigError, BankError) as error:
        raise click.ClickException(str(error)) from error
    code = _show_trial(console, outcome) if isinstance(outcome, Trial) else _show_report(console, outcome, refused)
    click.get_current_context().exit(code)


def _check(source: Source, refused: Path) -> None:
    marks = source.format.decimal_mark, source.format.thousands_mark
    if len(marks[1]) > 1 or marks[0] == marks[1] or marks[1].isdigit():
        raise click.BadParameter("must be one character, no digit, and not the decimal mark.", param_hint="--thousands-mark")
    if refused.absolute() == source.path.absolute():
        raise click.BadParameter("is the file itself.", param_hint="--refused")


def _show_report(console: Console, report: Report, refused: Path) -> int:
    if not report.changed:
        console.print("This file has been imported before; nothing was changed.")
    console.print(f"{report.lines:,} lines: {report.posted:,} posted, {report.repeated:,} there before, {report.refused.total():,} refused")
    _show_sums(console, report.sums)
    _show_reasons(console, report.refused)
    if report.refused:
        console.print(f"The refused lines, with their reasons: {refused}", soft_wrap=True)
    if report.proven:
        console.print(f"Proven: the totals of every account ({report.accounts:,}) are those of the file.")
        return SOME_REFUSED if report.refused else 0
    console.print(f"[bold red]NOT PROVEN[/]: accounts that differ from the file: {len(report.differences):,}.")
    if report.lines != (kept := report.posted + report.repeated + report.refused.total()):
        console.print(f"The file has {report.lines:,} lines, and {kept:,} are recorded.")
    for difference in report.differences[:_SHOWN]:
        file, books = (_sums_text(sums, difference.currency) for sums in (difference.file, difference.books))
        console.print(f"  {difference.account}: file {file}; books {books}", markup=False, soft_wrap=True)
    return FAILED


def _show_trial(console: Console, trial: Trial) -> int:
    console.print("Dry run: nothing was written.")
    console.print(
        f"{trial.done:,} lines are in already; of the rest {trial.posted:,} would be posted, {trial.repeated:,} are there before, "
        f"{trial.refused.total():,} would be refused; {trial.new_accounts:,} accounts would be opened"
    )
    _show_sums(console, trial.sums)
    _show_reasons(console, trial.refused)
    for line, reason, detail in trial.shown:
        console.print(f"  line {line}: {reason}: {detail}", markup=False, soft_wrap=True)
    return SOME_REFUSED if trial.refused else 0


def _show_sums(console: Console, sums: dict[str, Sums]) -> None:
    table = Table("currency", "credits", "debits", "net", "lines", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for currency, total in sums.items():
        amounts = (total.credits, total.debits, total.credits - total.debits)
        table.add_row(currency, *(_grouped(amount, currency) for amount in amounts), f"{total.count:,}")
    if sums:
        console.print(table)


def _show_reasons(console: Console, refused: Mapping[str, int]) -> None:
    for reason, count in sorted(refused.items()):
        console.print(f"  {count:,} refused: {reason}", markup=False)


def _sums_text(sums: Sums, currency: str) -> str:
    return f"{_grouped(sums.credits, currency)} in, {_grouped(sums.debits, currency)} out, {sums.count:,} lines"


def _grouped(minor: int, currency: str) -> str:
    whole, point, decimals = format_amount(minor, currency).partition(".")
    return f"{int(whole):,}{point}{decimals}" if whole != "-0" else f"-0{point}{decimals}"
