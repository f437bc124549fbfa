"""Statements: against the balances at their days' ends, in each format, and for whom they are."""

import csv
import io
import zlib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyiso20022.camt.camt_053_001_08 import Document
from xsdata.formats.dataclass.parsers import XmlParser
from xsdata.formats.dataclass.parsers.config import ParserConfig
from xsdata.formats.dataclass.serializers import XmlSerializer

from bank.balances.service import Holder
from bank.statements import service
from bank.statements.camt053 import camt053_of
from bank.statements.pdf import pdf_of, shown
from bank.statements.service import Line, Statement
from tests.statements.iso20022 import NAMESPACE, objections

FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 12, tzinfo=UTC)
CAMT = {"c": NAMESPACE}

edges = st.builds(lambda day, before: FIRST + timedelta(days=day) - timedelta(microseconds=before), st.integers(1, 12), st.integers(0, 1))
movements = st.tuples(
    edges | st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC)), st.integers(-900, 900)
)


@pytest.fixture(scope="module")
def teller(person):
    return person("statements_teller", "teller")


@pytest.fixture(scope="module")
def owner(person):
    return person("statements_owner")


def read(who, account, since, until, **headers):
    return who.get(f"/accounts/{account}/statement?from={since}&to={until}", headers=headers)


def rows(who, account, since, until):
    response = read(who, account, since, until)
    assert response.status_code == 200, response.text
    return list(csv.DictReader(io.StringIO(response.text)))


def cents(told):
    return int(told.replace(".", ""))


def at(who, account, day):
    last = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(microseconds=1)
    return cents(who.get(f"/balances/at-time?account_id={account}&at={quote(last.isoformat())}").json["amount"])


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], phases=(Phase.explicit, Phase.reuse, Phase.generate), deadline=None)
@given(st.lists(movements.filter(lambda each: each[1]), max_size=8), st.lists(st.integers(1, 14), min_size=2, max_size=5, unique=True))
def test_statements_join_and_end_with_the_balance_at_that_time(owner, teller, post_all, script, days):
    account = owner.open_account()["id"]
    teller.patch(f"/accounts/{account}", {"overdraft_limit": "1000000.00"})
    for effective_at, amount in script:
        body = {"account_id": account, "amount": f"{abs(amount) // 100}.{abs(amount) % 100:02}", "currency": "USD"}
        kind = "credit" if amount > 0 else "debit"
        assert teller.post(f"/transactions/{kind}", {**body, "effective_at": effective_at.isoformat()}).status_code == 202
    post_all()
    ends = [date(2023, 12, 31) + timedelta(days=day) for day in sorted(days)]
    before = None
    for since, until in pairwise(ends):
        opening, *lines, closing = rows(owner, account, since, until)
        assert cents(opening["balance"]) == at(owner, account, since)
        assert before in (None, cents(opening["balance"]))
        balance = cents(opening["balance"])
        for line in lines:
            balance += cents(line["amount"])
            assert cents(line["balance"]) == balance
        assert cents(closing["balance"]) == balance == at(owner, account, until)
        expected = sorted(amount for effective_at, amount in script if since <= effective_at.date() < until)
        assert sorted(cents(line["amount"]) for line in lines) == expected
        before = balance


@pytest.fixture(scope="module")
def booked(owner, teller, person, funded, post_all):
    """An account with a deposit, a backdated one, a payment, its rollback, a hold and what waits; with today and tomorrow."""
    other = person("statements_other")
    mine, theirs = funded(owner), funded(other, None)
    teller.post(
        "/transactions/credit",
        {"account_id": mine, "amount": "1.00", "currency": "USD", "effective_at": "2024-01-05T00:00:00Z", "description": "=1+1 Łódź"},
    )
    paid = owner.post(
        "/transactions/transfer",
        {"from_account_id": mine, "to_account_id": theirs, "amount": "5.00", "currency": "USD", "reference": "R" * 40},
    ).json["id"]
    post_all()
    other.post(f"/transactions/{paid}/rollback", {"reason": "Wrong"})
    owner.post(
        "/transactions/transfer", {"from_account_id": mine, "to_account_id": theirs, "amount": "7.00", "currency": "USD", "hold": True}
    )
    post_all()
    owner.post("/transactions/transfer", {"from_account_id": mine, "to_account_id": theirs, "amount": "9.00", "currency": "USD"})
    return mine, theirs, paid, other


DAYS = ("2024-01-01", "2200-01-01")


def test_the_lines_are_what_was_booked(owner, booked):
    mine, theirs, paid, other = booked
    opening, *lines, closing = rows(owner, mine, *DAYS)
    # What is held, and what waits, is in no line.
    assert [line["amount"] for line in lines] == ["1.00", "100.00", "-5.00", "5.00"]
    assert (opening["balance"], closing["balance"]) == ("0.00", "101.00")
    late, _, payment, back = lines
    assert late["value_date"] == "2024-01-05" < late["booking_date"]
    assert late["description"] == "'=1+1 Łódź"
    assert (payment["transaction_id"], payment["counterparty_account_id"], payment["direction"]) == (paid, theirs, "debit")
    assert (back["reverses_id"], back["type"], back["direction"]) == (paid, "rollback", "credit")
    _, arrived, _, _ = rows(other, theirs, *DAYS)
    assert (arrived["amount"], arrived["counterparty_account_id"]) == ("5.00", mine)


def test_camt053_is_read_by_the_types_of_iso_20022(owner, booked):
    mine, _, paid, _ = booked
    response = read(owner, mine, *DAYS, Accept="application/xml")
    assert (response.status_code, response.mimetype) == (200, "application/xml")
    document = ET.fromstring(response.text)
    read_back = XmlParser(ParserConfig(fail_on_unknown_properties=True)).from_string(response.text, Document)
    assert XmlSerializer().render(read_back, ns_map={None: NAMESPACE}) == response.text
    assert [str(entry.amt.value) for entry in read_back.bk_to_cstmr_stmt.stmt[0].ntry] == [
        told.text for told in document.iterfind(".//c:Ntry/c:Amt", CAMT)
    ]
    assert objections(document, Document) == []
    balances = {
        each.findtext("c:Tp/c:CdOrPrtry/c:Cd", None, CAMT): each.findtext("c:Amt", None, CAMT)
        for each in document.iter(f"{{{NAMESPACE}}}Bal")
    }
    # The last of these days is far from over.
    assert balances == {"OPBD": "0.00", "ITBD": "101.00"}
    assert document.findtext(".//c:Acct/c:Ownr/c:Nm", "", CAMT).startswith("statements_owner")
    entries = list(document.iter(f"{{{NAMESPACE}}}Ntry"))
    told = [tuple(each.findtext(f"c:{name}", None, CAMT) for name in ("Amt", "CdtDbtInd", "RvslInd")) for each in entries]
    assert told == [("1.00", "CRDT", None), ("100.00", "CRDT", None), ("5.00", "DBIT", None), ("5.00", "CRDT", "true")]
    assert entries[2].findtext("c:AcctSvcrRef", None, CAMT) == paid.replace("-", "")
    assert [each.text for each in entries[2].iter(f"{{{NAMESPACE}}}Ustrd")] == ["R" * 40]


def test_the_check_of_camt053_sees_what_is_wrong(owner, booked):
    text = read(owner, booked[0], *DAYS, Accept="application/xml").text
    for right, wrong in (("<Sts>", "<Stz>"), ("CRDT", "CREDIT"), ('Ccy="USD"', 'Ccy="usd"'), ("<NtryRef>", "<NtryRef>" + "9" * 40)):
        broken = text.replace(right, wrong).replace("</Sts>", "</Stz>") if wrong == "<Stz>" else text.replace(right, wrong)
        assert objections(ET.fromstring(broken), Document), wrong


def made(count, description="Rent", made_at=FIRST):
    line = Line(
        1, date(2024, 1, 1), date(2024, 1, 1), 1, 1, "019b2f6e-8a00-7000-8000-000000000002", "credit", None, description, None, None
    )
    return Statement(
        Holder("019b2f6e-8a00-7000-8000-000000000001", "", "USD"),
        "alice",
        "Household",
        date(2024, 1, 1),
        date(2024, 2, 1),
        made_at,
        0,
        (line,) * count,
    )


def streams(pdf):
    """The text of the PDF's pages."""
    found = []
    for piece in pdf.split(b"stream\n")[1:]:
        try:
            found.append(zlib.decompress(piece.split(b"\nendstream")[0]).decode("latin-1"))
        except zlib.error:
            continue
    return found


def test_pdf_has_numbered_pages_and_shows_what_its_font_lacks(owner, booked):
    response = read(owner, booked[0], *DAYS, Accept="application/pdf")
    assert (response.mimetype, response.data[:5]) == ("application/pdf", b"%PDF-")
    assert "101.00" in "".join(streams(response.data)) and "Holder statements_owner" in "".join(streams(response.data))
    pages = streams(pdf_of(made(200)))
    numbered = [page for page in pages if "Page " in page]
    assert len(numbered) > 2
    assert all(f"Page {at} of ) Tj ({len(numbered)}" in page for at, page in enumerate(numbered, 1))
    assert shown("Łódź £") == "\\u0141ód\\u017a £"


def test_camt053_refuses_a_balance_that_iso_20022_cannot_write():
    with pytest.raises(service.Unprocessable):
        camt053_of(replace(made(0), opening=10**18))


@pytest.mark.parametrize(
    ("made_at", "code", "at"),
    [
        (datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC), "ITBD", ("DtTm", "2024-01-31T23:59:59Z")),
        (datetime(2024, 2, 1, tzinfo=UTC), "CLBD", ("Dt", "2024-01-31")),
    ],
)
def test_a_balance_is_a_closing_one_once_the_day_is_over(made_at, code, at):
    statement = made(1, made_at=made_at)
    document = ET.fromstring(camt053_of(statement))
    assert objections(document, Document) == []
    _, last = document.iter(f"{{{NAMESPACE}}}Bal")
    assert last.findtext("c:Tp/c:CdOrPrtry/c:Cd", None, CAMT) == code
    assert last.findtext(f"c:Dt/c:{at[0]}", None, CAMT) == at[1]
    shown_balance = "Balance so far" if code == "ITBD" else "Closing balance"
    assert shown_balance in "".join(streams(pdf_of(statement)))


def test_a_statement_names_the_account_and_whose_it_is():
    statement = replace(made(1), name="H" * 100)
    text = "".join(streams(pdf_of(statement)))
    assert "Holder alice" in text and "H" * 100 in text
    document = ET.fromstring(camt053_of(statement))
    assert objections(document, Document) == []
    assert document.findtext(".//c:Acct/c:Nm", None, CAMT) == "H" * 70
    assert document.findtext(".//c:Acct/c:Ownr/c:Nm", None, CAMT) == "alice"


def test_format_and_accept(owner, booked):
    mine = booked[0]
    path = f"/accounts/{mine}/statement?from=2024-01-01&to=2024-02-01"
    for name, mimetype in (("csv", "text/csv"), ("pdf", "application/pdf"), ("camt053", "application/xml")):
        assert owner.get(f"{path}&format={name}").mimetype == mimetype
    assert owner.get(f"{path}&format=xls").status_code == 422
    assert owner.get(path, headers={"Accept": "application/json"}).status_code == 406
    assert owner.get(f"/accounts/{mine}/statement?from=2024-02-01&to=2024-02-01").status_code == 422
    assert owner.get(f"/accounts/{mine}/statement?from=2024-02-01").status_code == 422


def test_for_the_owner_and_staff_and_nobody_else(owner, teller, booked):
    mine, other = booked[0], booked[3]
    assert [read(who, mine, *DAYS).status_code for who in (owner, teller, other)] == [200, 200, 404]
    assert read(teller, "019b2f6e-8a00-7000-8000-000000000001", *DAYS).status_code == 404


def test_too_many_lines_are_refused(owner, booked, monkeypatch):
    monkeypatch.setattr(service, "MAX_LINES", 4)
    assert read(owner, booked[0], *DAYS).status_code == 200
    monkeypatch.setattr(service, "MAX_LINES", 3)
    refused = read(owner, booked[0], *DAYS)
    monkeypatch.setattr(service, "MAX_LINES", 4)
    monkeypatch.setattr(service, "MAX_PDF_LINES", 3)
    assert read(owner, booked[0], *DAYS, Accept="application/pdf").status_code == 422
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/to")
