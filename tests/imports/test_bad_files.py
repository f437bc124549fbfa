"""Files as they come: broken lines are refused with a reason, broken files with a sentence, and nothing is a traceback."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bank.imports.lines import Format, Line, Lines, Refused
from bank.imports.records import Unusable
from tests.imports.conftest import HEADER

GOOD = "giro,2020-01-31,credit,1,EUR,,\n"

BAD_LINES = {
    "an unknown type": ("giro,2020-01-31,gift,1,EUR,,", "unknown_type"),
    "no type": ("giro,2020-01-31,,1,EUR,,", "unknown_type"),
    "no account": (",2020-01-31,credit,1,EUR,,", "bad_account"),
    "a long account": (f"{'x' * 101},2020-01-31,credit,1,EUR,,", "bad_account"),
    "a control character": ("gi\x07ro,2020-01-31,credit,1,EUR,,", "bad_account"),
    "a NUL": ("gi\0ro,2020-01-31,credit,1,EUR,,", "bad_account"),
    "no date": ("giro,,credit,1,EUR,,", "bad_date"),
    "no such date": ("giro,2020-02-30,credit,1,EUR,,", "bad_date"),
    "a date of another form": ("giro,31.01.2020,credit,1,EUR,,", "bad_date"),
    "an early date": ("giro,1899-12-31,credit,1,EUR,,", "bad_date"),
    "a date that an offset moves out of all years": ("giro,0001-01-01T00:00:00+23:00,credit,1,EUR,,", "bad_date"),
    "a date to come": ("giro,2999-01-01,credit,1,EUR,,", "future_date"),
    "no amount": ("giro,2020-01-31,credit,,EUR,,", "bad_amount"),
    "zero": ("giro,2020-01-31,credit,0.00,EUR,,", "bad_amount"),
    "a negative amount": ("giro,2020-01-31,credit,-1,EUR,,", "bad_amount"),
    "a sign": ("giro,2020-01-31,credit,+1,EUR,,", "bad_amount"),
    "too many decimals": ("giro,2020-01-31,credit,1.001,EUR,,", "bad_amount"),
    "decimals of a currency without": ("giro,2020-01-31,credit,1.0,JPY,,", "bad_amount"),
    "an exponent": ("giro,2020-01-31,credit,1e2,EUR,,", "bad_amount"),
    "not a number": ("giro,2020-01-31,credit,NaN,EUR,,", "bad_amount"),
    "digits that are not ASCII": ("giro,2020-01-31,credit,١,EUR,,", "bad_amount"),
    "an amount past the range": (f"giro,2020-01-31,credit,{10**30},EUR,,", "bad_amount"),
    "a decimal comma": ('giro,2020-01-31,credit,"1,50",EUR,,', "bad_amount"),
    "no currency": ("giro,2020-01-31,credit,1,,,", "unknown_currency"),
    "an unknown currency": ("giro,2020-01-31,credit,1,XXQ,,", "unknown_currency"),
    "a lower-case currency": ("giro,2020-01-31,credit,1,eur,,", "unknown_currency"),
    "a long reference": (f"giro,2020-01-31,credit,1,EUR,{'x' * 101},", "bad_reference"),
    "a long description": (f"giro,2020-01-31,credit,1,EUR,,{'x' * 501}", "bad_description"),
    "too few fields": ("giro,2020-01-31,credit,1", "wrong_columns"),
    "too many fields": ("giro,2020-01-31,credit,1,EUR,,,", "wrong_columns"),
    "a quote in the middle": ('giro,2020-01-31,credit,1,EUR,"a"b,', "unreadable"),
    "a huge field": (f"giro,2020-01-31,credit,1,EUR,,{'x' * 200_000}", "unreadable"),
    "an endless line": (f"giro,2020-01-31,credit,1,EUR,,{'x' * 2_500_000}", "unreadable"),
}


def test_each_bad_line_is_refused_with_its_reason_and_the_others_count(bring_in, balances):
    lines = [line for line, _ in BAD_LINES.values()]
    done = bring_in(HEADER + "".join(f"{line}\n{GOOD}" for line in lines))
    assert done.code == 3
    found = {name: done.reasons.get(2 + 2 * place) for place, name in enumerate(BAD_LINES)}
    assert found == {name: reason for name, (_, reason) in BAD_LINES.items()}
    assert len(done.refused) == len(BAD_LINES)
    assert balances() == {"giro": 100 * len(BAD_LINES)}
    assert all(row["refused_detail"] for row in done.refused)
    again = bring_in(HEADER + "".join(f"{line}\n{GOOD}" for line in lines))
    assert "nothing was changed" in again.output and again.refused == done.refused


def test_bytes_of_another_encoding_are_refused_and_kept_as_they_are(bring_in, balances, tmp_path):
    done = bring_in(HEADER.encode() + b"giro,2020-01-31,credit,1,EUR,,Caf\xe9\n" + GOOD.encode())
    assert done.reasons == {2: "bad_description"}
    assert b"Caf\xe9" in (tmp_path / "history.csv.refused.csv").read_bytes()
    right = bring_in(HEADER.encode() + b"giro,2020-01-31,credit,1,EUR,,Caf\xe9\n", "--encoding", "latin-1")
    assert right.code == 0
    assert balances() == {"giro": 200}


def test_an_unclosed_quote_is_refused_to_the_end_of_the_file(bring_in, balances):
    done = bring_in(HEADER + GOOD + 'giro,2020-01-31,credit,1,EUR,"r1,\n' + GOOD)
    assert done.reasons == {3: "unreadable"}
    assert balances() == {"giro": 100}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + (HEADER + GOOD).encode(),
        (HEADER + GOOD).replace("\n", "\r\n").encode(),
        (HEADER + GOOD).replace("\n", "\r").encode(),
        (HEADER + GOOD).strip().encode(),
        ("\n\n" + HEADER + "\n\n" + GOOD + " , , \n\n").encode(),
        b'"account","date","type","amount","currency"\n" giro ","2020-01-31","CREDIT","1","EUR"\n',
        b" account , date,type,amount,currency,more\n giro , 2020-01-31 , Credit , 1 , EUR ,x\n",
    ],
    ids=["byte order mark", "CRLF", "CR", "no newline at the end", "blank lines", "quotes", "spaces"],
)
def test_what_editors_and_spreadsheets_do_to_a_file_does_not_matter(bring_in, balances, content):
    done = bring_in(content)
    assert done.code == 0, done.output
    assert balances() == {"giro": 100}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "The file is empty"),
        ("\n\n", "The file is empty"),
        ("giro,2020-01-31,credit,1,EUR\n", "There is no column 'account'"),
        ("account,date,type\n", "There is no column 'amount' for the amount"),
        ("account,date,type,amount\n", "There is no column 'currency'"),
        ("account,date,type,amount,currency,account\n", "The column 'account' is there more than once"),
        (f'"{"x" * 200_000}"\n', "cannot be read"),
        (b"\xff\xfe" + HEADER.encode("utf-16-le"), "--encoding"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "--encoding"),
    ],
)
def test_a_file_that_is_none_is_refused_as_a_whole(bring_in, content, says, context):
    done = bring_in(content)
    assert done.code == 1
    assert says in done.output


def test_a_utf16_file_is_read_when_its_encoding_is_named(bring_in, balances):
    content = (HEADER + "Žižkov,2020-01-31,credit,1,EUR,,\nx,2020-01-31,gift,1,EUR,,\n").encode("utf-16")
    done = bring_in(content, "--encoding", "utf-16", "--refused", "/dev/null")
    assert "1 posted, 0 there before, 1 refused" in done.output
    assert balances() == {"Žižkov": 100}
    assert bring_in(content[:-3], "--encoding", "utf-16", "--refused", "/dev/null").code in (1, 3)


def test_a_refused_file_that_cannot_be_written_is_told_of(bring_in, balances):
    done = bring_in(HEADER + GOOD + "x\n", "--refused", "/nowhere/refused.csv")
    assert done.code == 1
    assert "cannot be written to /nowhere/refused.csv" in done.output
    assert balances() == {"giro": 100}


@pytest.mark.parametrize(
    "options",
    [
        ("--column", "account"),
        ("--column", "colour=x"),
        ("--type", "PRIJEM=in"),
        ("--type", "PRIJEM"),
        ("--delimiter", ";;"),
        ("--delimiter", '"'),
        ("--encoding", "no-such"),
        ("--encoding", "rot13"),
        ("--currency", "XXQ"),
        ("--decimal-mark", ";"),
        ("--thousands-mark", "."),
        ("--thousands-mark", "ab"),
        ("--century", "7"),
        ("--overdraft-limit", "-1"),
        ("--overdraft-limit", "much"),
    ],
)
def test_an_option_that_cannot_be_is_refused(bring_in, balances, options):
    done = bring_in(HEADER + GOOD, *options)
    assert done.code in (1, 2)
    assert "Error" in done.output
    assert balances() == {}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.text(alphabet='giro,;"\r\n\0é2020-1', max_size=200).map(str.encode))
def test_no_bytes_whatever_break_the_reader(tmp_path, until, content):
    path = tmp_path / "any.csv"
    path.write_bytes(HEADER.encode() + content)
    format = Format(columns={}, types={"credit": "credit"})
    last = 0
    try:
        with Lines(path, format, until) as lines:
            for line in lines:
                assert isinstance(line, Line | Refused)
                assert last < line.record.start <= line.record.end
                last = line.record.end
                if isinstance(line, Refused):
                    line.detail.encode()
                    assert "\0" not in line.detail
    except Unusable:
        pytest.fail("the header is good, so the rest is lines")
