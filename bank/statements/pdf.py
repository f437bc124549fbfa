"""A statement as PDF, on numbered pages."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bank.money import format_amount
from bank.statements.service import Statement
from bank.web.fields import timestamp

if TYPE_CHECKING:
    from fpdf import FPDF

# In millimetres, on A4 with margins of 10: booking date, value date, what it was, amount, balance.
_WIDTHS = (20, 20, 82, 34, 34)
_HEADS = ("Booked", "Value", "Transaction", "Amount", "Balance")
_ROW = 4


def pdf_of(made: Statement) -> bytes:
    """The PDF."""
    # Imported here: it brings a library of fonts and one of images, which no other request needs.
    from fpdf import FPDF
    from fpdf.enums import XPos, YPos

    class Pages(FPDF):
        """Pages with a heading over the table and their number below."""

        def header(self) -> None:
            self.set_font("Helvetica", "B", 8)
            for width, head, align in zip(_WIDTHS, _HEADS, "LLLRR", strict=True):
                self.cell(width, 6, head, border="B", align=align)
            self.ln(7)

        def footer(self) -> None:
            self.set_y(-12)
            self.set_font("Helvetica", size=7)
            self.cell(0, 5, f"Page {self.page_no()} of {{nb}}", align="R")

    pages = Pages(format="A4")
    pages.set_margins(10, 10)
    pages.set_auto_page_break(True, 15)
    pages.set_title(f"Statement of account {made.account.account_id}")
    pages.set_creation_date(made.made_at)
    pages.add_page()
    currency, last = made.account.currency, made.until - timedelta(days=1)
    pages.set_font("Helvetica", "B", 11)
    pages.cell(0, 7, "Statement of account", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pages.set_font("Helvetica", size=8)
    for told in (
        shown(f"Holder {made.holder}"),
        shown(f"Account {made.account.account_id} in {currency}{f', {made.name}' if made.name else ''}"),
        f"Value dates {made.since} to {last} (UTC), both included; made {timestamp(made.made_at)}",
    ):
        pages.cell(0, _ROW, told, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pages.ln(2)
    _row(pages, ("", str(made.since), "Opening balance", "", format_amount(made.opening, currency)))
    for line in made.lines:
        told = "\n".join(
            filter(
                None,
                (
                    f"{line.type} {line.transaction_id}",
                    line.counterparty_id and f"{'from' if line.amount > 0 else 'to'} account {line.counterparty_id}",
                    line.reverses_id and f"reverses {line.reverses_id}",
                    line.reference and f"reference {line.reference}",
                    line.description,
                ),
            )
        )
        amount, balance = (format_amount(minor, currency) for minor in (line.amount, line.balance))
        _row(pages, (str(line.booked_on), str(line.value_on), told, amount, balance))
    _row(
        pages,
        (
            "",
            str(last),
            "Balance so far, before the last day is over" if made.interim else "Closing balance",
            "",
            format_amount(made.closing, currency),
        ),
    )
    return bytes(pages.output())


def _row(pages: "FPDF", cells: tuple[str, str, str, str, str]) -> None:
    pages.set_font("Helvetica", size=7)
    booked, value, told, amount, balance = cells
    told = shown(told)
    lines: Any = pages.multi_cell(_WIDTHS[2], _ROW, told, align="L", dry_run=True, output="LINES")
    height = _ROW * len(lines)
    # A row is not torn over two pages.
    if pages.will_page_break(height):
        pages.add_page()
        pages.set_font("Helvetica", size=7)
    top = pages.get_y()
    pages.cell(_WIDTHS[0], _ROW, booked)
    pages.cell(_WIDTHS[1], _ROW, value)
    left = pages.get_x()
    pages.multi_cell(_WIDTHS[2], _ROW, told, align="L")
    pages.set_xy(left + _WIDTHS[2], top)
    pages.cell(_WIDTHS[3], _ROW, amount, align="R")
    pages.cell(_WIDTHS[4], _ROW, balance, align="R")
    pages.set_xy(pages.l_margin, top + height + 1)


def shown(told: str) -> str:
    r"""The text as the fonts that every PDF reader has can show it: what they lack stands as its code, such as \u0142."""
    return told.encode("latin-1", "backslashreplace").decode("latin-1")
