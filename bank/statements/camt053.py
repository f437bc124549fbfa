"""A statement as ISO 20022 camt.053.001.08 (BankToCustomerStatementV08). docs/statements.md says what stands where.

Import it where it is needed: the types take a fifth of a second and four megabytes, and most processes never make a statement.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID, uuid4, uuid5

from pyiso20022.camt import camt_053_001_08 as camt
from xsdata.formats.dataclass.serializers import XmlSerializer
from xsdata.models.datatype import XmlDate, XmlDateTime

from bank.errors import Unprocessable
from bank.money import format_amount
from bank.statements.schemas import CAMT053
from bank.statements.service import Line, Statement

# ISO 20022: digits of an amount (ActiveOrHistoricCurrencyAndAmount), characters of a reference (Max35Text) and of a line of
# remittance information (Max140Text).
_MOST_DIGITS, _REFERENCE, _REMITTANCE = 18, 35, 140

# And of the name of an account (Max70Text) and of its owner (Max140Text).
_ACCOUNT_NAME, _OWNER_NAME = 70, 140


def camt053_of(made: Statement) -> bytes:
    """The document. Raises Unprocessable for a balance of more digits than ISO 20022 has."""
    made_at, currency = XmlDateTime.from_datetime(made.made_at), made.account.currency
    # A day that is not over has no closing balance yet, only that of a moment.
    last = ("ITBD", made.closing, _moment(made_at)) if made.interim else ("CLBD", made.closing, _day(made.until - timedelta(days=1)))
    balances = ("OPBD", made.opening, _day(made.since)), last
    document = camt.Document(
        bk_to_cstmr_stmt=camt.BankToCustomerStatementV08(
            grp_hdr=camt.GroupHeader81(msg_id=uuid4().hex, cre_dt_tm=made_at),
            stmt=[
                camt.AccountStatement9(
                    # The same days of the same account have the same name: who gets them twice can tell.
                    id=uuid5(UUID(made.account.account_id), f"{made.since}/{made.until}").hex,
                    cre_dt_tm=made_at,
                    fr_to_dt=camt.DateTimePeriod1(fr_dt_tm=_midnight(made.since), to_dt_tm=_midnight(made.until)),
                    acct=camt.CashAccount39(
                        id=_account(made.account.account_id),
                        ccy=currency,
                        nm=made.name[:_ACCOUNT_NAME] if made.name else None,
                        ownr=camt.PartyIdentification135(nm=made.holder[:_OWNER_NAME]),
                    ),
                    bal=[_balance(*balance, currency) for balance in balances],
                    ntry=[_entry(line, currency) for line in made.lines],
                )
            ],
        )
    )
    return XmlSerializer().render(document, ns_map={None: CAMT053}).encode()


def _midnight(day: date) -> XmlDateTime:
    return XmlDateTime.from_datetime(datetime.combine(day, time.min, UTC))


def _hex(identifier: str) -> str:
    # Max34Text and Max35Text have no room for the hyphens of a UUID.
    return identifier.replace("-", "")


def _account(account_id: str) -> camt.AccountIdentification4Choice:
    return camt.AccountIdentification4Choice(othr=camt.GenericAccountIdentification1(id=_hex(account_id)))


def _money(minor: int, currency: str) -> tuple[camt.ActiveOrHistoricCurrencyAndAmount, camt.CreditDebitCode]:
    if len(str(abs(minor))) > _MOST_DIGITS:
        raise Unprocessable.at("/format", "A balance is past what ISO 20022 can write; take another format.")
    amount = camt.ActiveOrHistoricCurrencyAndAmount(value=Decimal(format_amount(abs(minor), currency)), ccy=currency)
    return amount, camt.CreditDebitCode.DBIT if minor < 0 else camt.CreditDebitCode.CRDT


def _day(day: date) -> camt.DateAndDateTime2Choice:
    return camt.DateAndDateTime2Choice(dt=XmlDate.from_date(day))


def _moment(at: XmlDateTime) -> camt.DateAndDateTime2Choice:
    return camt.DateAndDateTime2Choice(dt_tm=at)


def _balance(code: str, minor: int, at: camt.DateAndDateTime2Choice, currency: str) -> camt.CashBalance8:
    amount, side = _money(minor, currency)
    kind = camt.BalanceType13(cd_or_prtry=camt.BalanceType10Choice(cd=code))
    return camt.CashBalance8(tp=kind, amt=amount, cdt_dbt_ind=side, dt=at)


def _entry(line: Line, currency: str) -> camt.ReportEntry10:
    amount, side = _money(line.amount, currency)
    fits = line.reference and len(line.reference) <= _REFERENCE
    told = list(_remittance(line))
    details = camt.EntryTransaction10(
        refs=camt.TransactionReferences6(acct_svcr_ref=_hex(line.transaction_id), end_to_end_id=line.reference if fits else None),
        amt=amount,
        cdt_dbt_ind=side,
        rltd_pties=_parties(line),
        rmt_inf=camt.RemittanceInformation16(ustrd=told) if told else None,
        addtl_tx_inf=f"Reverses {_hex(line.reverses_id)}" if line.reverses_id else None,
    )
    return camt.ReportEntry10(
        ntry_ref=str(line.version),
        amt=amount,
        cdt_dbt_ind=side,
        rvsl_ind=True if line.reverses_id else None,
        sts=camt.EntryStatus1Choice(cd="BOOK"),
        bookg_dt=_day(line.booked_on),
        val_dt=_day(line.value_on),
        acct_svcr_ref=_hex(line.transaction_id),
        bk_tx_cd=camt.BankTransactionCodeStructure4(prtry=camt.ProprietaryBankTransactionCodeStructure1(cd=line.type)),
        ntry_dtls=[camt.EntryDetails9(tx_dtls=[details])],
    )


def _parties(line: Line) -> camt.TransactionParties6 | None:
    if not line.counterparty_id:
        return None
    other = camt.CashAccount38(id=_account(line.counterparty_id))
    return camt.TransactionParties6(dbtr_acct=other) if line.amount > 0 else camt.TransactionParties6(cdtr_acct=other)


def _remittance(line: Line) -> Iterator[str]:
    """The description, and a reference that is too long for its place, in pieces that fit."""
    long_reference = line.reference if line.reference and len(line.reference) > _REFERENCE else None
    for told in filter(None, (long_reference, line.description)):
        for start in range(0, len(told), _REMITTANCE):
            yield told[start : start + _REMITTANCE]
