"""A statement as ISO 20022 camt.053.001.08 (BankToCustomerStatementV08). docs/statements.md says what stands where."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID, uuid4, uuid5

from bank.errors import Unprocessable
from bank.money import format_amount
from bank.statements.service import Line, Statement

if TYPE_CHECKING:
    from pyiso20022.camt import camt_053_001_08 as camt
    from xsdata.models.datatype import XmlDateTime

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"

# ISO 20022: digits of an amount (ActiveOrHistoricCurrencyAndAmount), characters of a reference (Max35Text) and of a line of
# remittance information (Max140Text).
_MOST_DIGITS, _REFERENCE, _REMITTANCE = 18, 35, 140


def camt053_of(made: Statement) -> bytes:
    """The document. Raises Unprocessable for a balance of more digits than ISO 20022 has."""
    # Here and not above: the types take a fifth of a second and four megabytes, and most processes never make a statement.
    from pyiso20022.camt import camt_053_001_08 as camt
    from xsdata.formats.dataclass.serializers import XmlSerializer
    from xsdata.models.datatype import XmlDateTime

    made_at = XmlDateTime.from_datetime(made.made_at)
    build = _Builder(made.account.currency)
    balances = ("OPBD", made.opening, made.since), ("CLBD", made.closing, made.until - timedelta(days=1))
    document = camt.Document(
        bk_to_cstmr_stmt=camt.BankToCustomerStatementV08(
            grp_hdr=camt.GroupHeader81(msg_id=uuid4().hex, cre_dt_tm=made_at),
            stmt=[
                camt.AccountStatement9(
                    # The same days of the same account have the same name: who gets them twice can tell.
                    id=uuid5(UUID(made.account.account_id), f"{made.since}/{made.until}").hex,
                    cre_dt_tm=made_at,
                    fr_to_dt=camt.DateTimePeriod1(fr_dt_tm=_midnight(made.since), to_dt_tm=_midnight(made.until)),
                    acct=camt.CashAccount39(id=build.account(made.account.account_id), ccy=made.account.currency),
                    bal=[build.balance(*balance) for balance in balances],
                    ntry=[build.entry(line) for line in made.lines],
                )
            ],
        )
    )
    return XmlSerializer().render(document, ns_map={None: NAMESPACE}).encode()


def _midnight(day: date) -> "XmlDateTime":
    from xsdata.models.datatype import XmlDateTime

    return XmlDateTime.from_datetime(datetime.combine(day, time.min, UTC))


def _hex(identifier: str) -> str:
    # Max34Text and Max35Text have no room for the hyphens of a UUID.
    return identifier.replace("-", "")


class _Builder:
    """Makes the parts of one account's statement."""

    def __init__(self, currency: str) -> None:
        from pyiso20022.camt import camt_053_001_08 as types

        self._camt = types
        self._currency = currency

    def account(self, account_id: str) -> "camt.AccountIdentification4Choice":
        return self._camt.AccountIdentification4Choice(othr=self._camt.GenericAccountIdentification1(id=_hex(account_id)))

    def _money(self, minor: int) -> "tuple[camt.ActiveOrHistoricCurrencyAndAmount, camt.CreditDebitCode]":
        if len(str(abs(minor))) > _MOST_DIGITS:
            raise Unprocessable.at("/format", "A balance is past what ISO 20022 can write; take another format.")
        code = self._camt.CreditDebitCode
        amount = Decimal(format_amount(abs(minor), self._currency))
        return self._camt.ActiveOrHistoricCurrencyAndAmount(value=amount, ccy=self._currency), code.DBIT if minor < 0 else code.CRDT

    def _day(self, day: date) -> "camt.DateAndDateTime2Choice":
        from xsdata.models.datatype import XmlDate

        return self._camt.DateAndDateTime2Choice(dt=XmlDate.from_date(day))

    def balance(self, code: str, minor: int, day: date) -> "camt.CashBalance8":
        amount, side = self._money(minor)
        kind = self._camt.BalanceType13(cd_or_prtry=self._camt.BalanceType10Choice(cd=code))
        return self._camt.CashBalance8(tp=kind, amt=amount, cdt_dbt_ind=side, dt=self._day(day))

    def entry(self, line: Line) -> "camt.ReportEntry10":
        amount, side = self._money(line.amount)
        kind = self._camt.ProprietaryBankTransactionCodeStructure1(cd=line.type)
        return self._camt.ReportEntry10(
            ntry_ref=str(line.version),
            amt=amount,
            cdt_dbt_ind=side,
            rvsl_ind=True if line.reverses_id else None,
            sts=self._camt.EntryStatus1Choice(cd="BOOK"),
            bookg_dt=self._day(line.booked_on),
            val_dt=self._day(line.value_on),
            acct_svcr_ref=_hex(line.transaction_id),
            bk_tx_cd=self._camt.BankTransactionCodeStructure4(prtry=kind),
            ntry_dtls=[self._camt.EntryDetails9(tx_dtls=[self._details(line)])],
        )

    def _details(self, line: Line) -> "camt.EntryTransaction10":
        amount, side = self._money(line.amount)
        fits = line.reference and len(line.reference) <= _REFERENCE
        told = list(_remittance(line))
        return self._camt.EntryTransaction10(
            refs=self._camt.TransactionReferences6(acct_svcr_ref=_hex(line.transaction_id), end_to_end_id=line.reference if fits else None),
            amt=amount,
            cdt_dbt_ind=side,
            rltd_pties=self._parties(line),
            rmt_inf=self._camt.RemittanceInformation16(ustrd=told) if told else None,
            addtl_tx_inf=f"Reverses {_hex(line.reverses_id)}" if line.reverses_id else None,
        )

    def _parties(self, line: Line) -> "camt.TransactionParties6 | None":
        if not line.counterparty_id:
            return None
        other = self._camt.CashAccount38(id=self.account(line.counterparty_id))
        return self._camt.TransactionParties6(dbtr_acct=other) if line.amount > 0 else self._camt.TransactionParties6(cdtr_acct=other)


def _remittance(line: Line) -> Iterator[str]:
    """The description, and a reference that is too long for its place, in pieces that fit."""
    long_reference = line.reference if line.reference and len(line.reference) > _REFERENCE else None
    for told in filter(None, (long_reference, line.description)):
        for start in range(0, len(told), _REMITTANCE):
            yield told[start : start + _REMITTANCE]
