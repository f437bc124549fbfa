"""The ways in which files write dates, amounts and types."""

from datetime import UTC, datetime

import pytest

from bank.imports.lines import Format, Line, Lines


@pytest.fixture
def read(tmp_path, until):
    """Read one line with these values in this format: the line, or the reason of its refusal."""

    def run(format_options, **values):
        values = {"account": "giro", "date": "2020-01-31", "type": "credit", "amount": "1", "currency": "EUR", **values}
        path = tmp_path / "one.csv"
        path.write_text("\t".join(values) + "\n" + "\t".join(values.values()) + "\n", encoding="utf-8")
        format = Format(**{"columns": {}, "types": {"credit": "credit"}, "delimiter": "\t", **format_options})
        with Lines(path, format, until) as lines:
            line = next(iter(lines))
        return line if isinstance(line, Line) else line.reason

    return run


@pytest.mark.parametrize(
    ("options", "text", "moment"),
    [
        ({}, "2020-01-31", datetime(2020, 1, 31, tzinfo=UTC)),
        ({}, "2020-01-31T10:11:12.000013Z", datetime(2020, 1, 31, 10, 11, 12, 13, tzinfo=UTC)),
        ({}, "2020-01-31 10:11:12", datetime(2020, 1, 31, 10, 11, 12, tzinfo=UTC)),
        ({}, "2020-01-31T00:30:00+01:00", datetime(2020, 1, 30, 23, 30, tzinfo=UTC)),
        ({"date_format": "%d.%m.%Y"}, "1.2.2020", datetime(2020, 2, 1, tzinfo=UTC)),
        ({"date_format": "%d/%m/%Y %H:%M"}, "31/01/2020 10:11", datetime(2020, 1, 31, 10, 11, tzinfo=UTC)),
        ({"date_format": "%y%m%d"}, "930131", datetime(1993, 1, 31, tzinfo=UTC)),
        ({"date_format": "%y%m%d"}, "200131", datetime(2020, 1, 31, tzinfo=UTC)),
        ({"date_format": "%y%m%d", "century": 19}, "200131", datetime(1920, 1, 31, tzinfo=UTC)),
        ({"date_format": "%y%m%d", "century": 19}, "000229", "bad_date"),
        ({"date_format": "%y%m%d"}, "9311", "bad_date"),
        ({"date_format": "%y%m%d"}, "1993-01-31", "bad_date"),
        ({"date_format": "%d.%m.%Y"}, "2020-01-31", "bad_date"),
    ],
)
def test_dates(read, options, text, moment):
    found = read(options, date=text)
    assert (found.effective_at if isinstance(found, Line) else found) == moment


@pytest.mark.parametrize(
    ("decimal", "thousands", "text", "minor"),
    [
        (".", "", "1234.56", 123_456),
        (",", "", "1234,56", 123_456),
        (",", "", "1234", 123_400),
        (",", ".", "1.234,56", 123_456),
        (",", ".", "1234,56", 123_456),
        (".", ",", "1,234,567.8", 123_456_780),
        (",", " ", "1 234,56", 123_456),
        (",", "'", "1'234,5", 123_450),
        (",", "", "1234.56", "bad_amount"),
        (",", ".", "1.23,56", "bad_amount"),
        (",", ".", "1234.567,00", "bad_amount"),
        (",", ".", "1,234.56", "bad_amount"),
        (",", ".", ",50", "bad_amount"),
        (",", ".", "1.234", 123_400),
        (",", "", "-1,00", "bad_amount"),
        (",", "", "1,2,3", "bad_amount"),
    ],
)
def test_amounts(read, decimal, thousands, text, minor):
    found = read({"decimal_mark": decimal, "thousands_mark": thousands}, amount=text)
    assert (found.amount if isinstance(found, Line) else found) == minor


def test_columns_types_and_the_currency_by_option(bring_in, balances):
    done = bring_in(
        '"id";"konto";"date";"druh";"amount";"account"\n1;77;930131;PRIJEM;10.00;x\n2;77;930201;vydaj;3.00;y\n',
        *("--delimiter", ";", "--column", "account=konto", "--column", "type=druh", "--column", "reference=id"),
        *("--type", "PRIJEM=credit", "--type", "VYDAJ=debit", "--date-format", "%y%m%d", "--century", "19", "--currency", "CZK"),
    )
    assert done.code == 0, done.output
    assert balances() == {"77": 700}


def test_a_lines_own_currency_goes_before_the_option(bring_in, balances):
    done = bring_in("account,date,type,amount,currency\na,2020-01-31,credit,1,\nb,2020-01-31,credit,1,JPY\n", "--currency", "EUR")
    assert done.code == 0, done.output
    assert balances() == {"a": 100, "b": 1}
