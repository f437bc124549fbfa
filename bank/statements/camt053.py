"""A statement as ISO 20022 camt.053.001.08 (BankToCustomerStatementV08). docs/statements.md says what stands where."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from uuid import UUID, uuid4, uuid5
from xml.etree import ElementTree as ET

from bank.errors import Unprocessable
from bank.money import format_amount
from bank.statements.service import Line, Statement
from bank.web.fields import timestamp

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"

# ISO 20022: digits of an amount (ActiveOrHistoricCurrencyAndAmount), characters of a reference (Max35Text) and of a line of
# remittance information (Max140Text).
_MOST_DIGITS, _REFERENCE, _REMITTANCE = 18, 35, 140


def camt053_of(made: Statement) -> bytes:
    """The document. Raises Unprocessable for a balance of more digits than ISO 20022 has."""
    document = ET.Element("Document", xmlns=NAMESPACE)
    message = _put(document, "BkToCstmrStmt")
    made_at = timestamp(made.made_at) or ""
    header = _put(message, "GrpHdr")
    _put(header, "MsgId", uuid4().hex)
    _put(header, "CreDtTm", made_at)
    stmt = _put(message, "Stmt")
    # The same days of the same account have the same name: who gets them twice can tell.
    _put(stmt, "Id", uuid5(UUID(made.account.account_id), f"{made.since}/{made.until}").hex)
    _put(stmt, "CreDtTm", made_at)
    period = _put(stmt, "FrToDt")
    _put(period, "FrDtTm", _midnight(made.since))
    _put(period, "ToDtTm", _midnight(made.until))
    account = _put(stmt, "Acct")
    _account_id(account, made.account.account_id)
    _put(account, "Ccy", made.account.currency)
    for code, balance, day in (("OPBD", made.opening, made.since), ("CLBD", made.closing, made.until - timedelta(days=1))):
        _balance(stmt, code, balance, day, made.account.currency)
    for line in made.lines:
        _entry(stmt, line, made.account.currency)
    return bytes(ET.tostring(document, encoding="UTF-8", xml_declaration=True))


def _put(parent: ET.Element, *path: str) -> ET.Element:
    """A new child of this name; a second string is its text."""
    child = ET.SubElement(parent, path[0])
    if len(path) > 1:
        child.text = path[1]
    return child


def _midnight(day: date) -> str:
    return timestamp(datetime.fromisoformat(f"{day}T00:00:00+00:00")) or ""


def _hex(identifier: str) -> str:
    # Max34Text and Max35Text have no room for the hyphens of a UUID.
    return identifier.replace("-", "")


def _account_id(parent: ET.Element, account_id: str) -> None:
    _put(_put(_put(parent, "Id"), "Othr"), "Id", _hex(account_id))


def _money(parent: ET.Element, minor: int, currency: str) -> None:
    if len(str(abs(minor))) > _MOST_DIGITS:
        raise Unprocessable.at("/format", "A balance is past what ISO 20022 can write; take another format.")
    _put(parent, "Amt", format_amount(abs(minor), currency)).set("Ccy", currency)
    _put(parent, "CdtDbtInd", "DBIT" if minor < 0 else "CRDT")


def _balance(stmt: ET.Element, code: str, minor: int, day: date, currency: str) -> None:
    balance = _put(stmt, "Bal")
    _put(_put(_put(balance, "Tp"), "CdOrPrtry"), "Cd", code)
    _money(balance, minor, currency)
    _put(_put(balance, "Dt"), "Dt", str(day))


def _entry(stmt: ET.Element, line: Line, currency: str) -> None:
    entry = _put(stmt, "Ntry")
    _put(entry, "NtryRef", str(line.version))
    _money(entry, line.amount, currency)
    if line.reverses_id:
        _put(entry, "RvslInd", "true")
    _put(_put(entry, "Sts"), "Cd", "BOOK")
    _put(_put(entry, "BookgDt"), "Dt", str(line.booked_on))
    _put(_put(entry, "ValDt"), "Dt", str(line.value_on))
    _put(entry, "AcctSvcrRef", _hex(line.transaction_id))
    _put(_put(_put(entry, "BkTxCd"), "Prtry"), "Cd", line.type)
    details = _put(_put(entry, "NtryDtls"), "TxDtls")
    references = _put(details, "Refs")
    _put(references, "AcctSvcrRef", _hex(line.transaction_id))
    if line.reference and len(line.reference) <= _REFERENCE:
        _put(references, "EndToEndId", line.reference)
    _money(details, line.amount, currency)
    if line.counterparty_id:
        _account_id(_put(_put(details, "RltdPties"), "DbtrAcct" if line.amount > 0 else "CdtrAcct"), line.counterparty_id)
    told = list(_remittance(line))
    if told:
        remittance = _put(details, "RmtInf")
        for each in told:
            _put(remittance, "Ustrd", each)
    if line.reverses_id:
        _put(details, "AddtlTxInf", f"Reverses {_hex(line.reverses_id)}")


def _remittance(line: Line) -> Iterator[str]:
    """The description, and a reference that is too long for its place, in pieces that fit."""
    long_reference = line.reference if line.reference and len(line.reference) > _REFERENCE else None
    for told in filter(None, (long_reference, line.description)):
        for start in range(0, len(told), _REMITTANCE):
            yield told[start : start + _REMITTANCE]
