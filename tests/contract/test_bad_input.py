"""Every route and field with everything that is wrong: always the contract's problem, never a 500, nothing written."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from bank.web.context import new_id
from tests.contract.problems import check_problem

# ruff: noqa: E501 - tables are read by the line.

# JSON texts, and not Python values: much of what is wrong has no Python value.
NO_TEXT = [
    "null",
    "1",
    "1.5",
    "true",
    "[]",
    "{}",
    '["a"]',
    '""',
    '"\\u0000"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u001b[31m"',
]
NO_AMOUNT = [
    "null", "true", "false", "[]", "{}", '["1"]',
    "1.5", "12.0", "NaN", "Infinity", "-Infinity", "1e2", "1e400", "-1e400", "1e-400", "1e99999999999999999999",
    "0", "-0", "-1", "-0.0", str(10**30), "9" * 5000, "-" + "9" * 5000, str(10**16), str(2**63), str(2**64),
    '""', '" "', '"abc"', '"0"', '"-0"', '"0.00"', '"-1"', '"+5"', '"1_000"', '"1,000"', '"1e2"', '"1e400"', '"NaN"', '"Infinity"',
    '"\\u0663"', '"\\uff11"', '"0.001"', '"12.345"', '"01"', '"1."', '".5"', '" 1"', '"1 "', '"1\\n"', '"1\\u0000"', '"\\ud800"',
    '"0x10"', f'"{10**30}"', '"' + "9" * 5000 + '"', '"10000000000000000.00"',
]  # fmt: skip
NO_ID = [
    "null", "1", "1.5", "true", "[]", "{}", '""', '"x"', '"\\u0000"', '"\\ud800"',
    '"019b2f6e8a0070008000000000000001"', '"{019b2f6e-8a00-7000-8000-000000000001}"', '"urn:uuid:019b2f6e-8a00-7000-8000-000000000001"',
    '"019b2f6e-8a00-7000-8000-00000000000g"', '"019b2f6e-8a00-7000-8000-0000000000011"', '" 019b2f6e-8a00-7000-8000-000000000001"',
    '"019b2f6e-8a00-7000-8000-000000000001\\n"', '"\\u0660' + '19b2f6e-8a00-7000-8000-000000000001"', '"' + "0" * 10_000 + '"',
]  # fmt: skip
UNUSED_ID = '"019b2f6e-8a00-7000-8000-000000000001"'
NO_CURRENCY = [
    "null", "840", "1.5", "true", "[]", '["USD"]', "{}", '""', '"usd"', '"Usd"', '"US"', '"USDD"', '" USD"', '"USD\\n"', '"ZZZ"',
    '"XXX"', '"XTS"', '"XAU"', '"XDR"', '"840"', '"U\\u0000D"', '"\\ud800SD"', '"\\uff35SD"', '"' + "U" * 10_000 + '"',
]  # fmt: skip
NO_MOMENT = [
    "null", "1", "1700000000", "1.5", "true", "[]", "{}", '""', '"yesterday"', '"2026-01-31"', '"2026-01-31T12:00:00"',
    '"2026-01-31 12:00:00Z"', '"2026-02-30T12:00:00Z"', '"2026-01-31T25:00:00Z"', '"2026-01-31T12:00:60Z"', '"2026-01-31T12:00:00+25:00"',
    '"0000-01-01T00:00:00Z"', '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-14:00"', '"12026-01-31T12:00:00Z"',
    '"2026-01-31T12:00:00.1234567Z"', '"2026-W05-6T12:00:00Z"', '"\\u0662026-01-31T12:00:00Z"', '"2026-01-31T12:00:00Z\\u0000"',
]  # fmt: skip
NO_METADATA = [
    "null", '"x"', "1", "true", "[]", '[["a", "b"]]', '{"a": 1}', '{"a": 1.5}', '{"a": NaN}', '{"a": null}', '{"a": true}', '{"a": {}}',
    '{"a": ["b"]}', '{"": "x"}', json.dumps({"k" * 41: "x"}), json.dumps({"a": "x" * 501}), json.dumps({str(i): "x" for i in range(51)}),
    '{"a": "\\u0000"}', '{"\\u0000": "a"}', '{"a": "\\ud800"}', '{"\\ud800": "a"}',
]  # fmt: skip
NO_FLAG = ["null", "0", "1", "-1", "1.5", "[]", "{}", '""', '"true"', '"false"', '"on"', '"yes"', '"\\u0000"']
NO_DAY = [
    "null", "1", "20260131", "1.5", "true", "[]", "{}", '""', '"today"', '"2026-1-31"', '"20260131"', '"2026-W05-6"', '"2026-031"', '"31.01.2026"',
    '"2026-01-31T12:00:00Z"', '"2026-02-30"', '"2026-13-01"', '"0000-01-01"', '"1899-12-31"', '"9001-01-01"', '"12026-01-31"', '" 2026-01-31"',
    '"2026-01-31\\n"', '"\\u0662026-01-31"', '"2026-01-31\\u0000"', '"\\ud800"',
]  # fmt: skip
NO_PASSWORD = ["null", "1", "true", "[]", "{}", '""', '"\\u0000"', '"\\ud800"', json.dumps("x" * 257)]
NO_CODE = [
    *NO_TEXT,
    '"12345"',
    '"1234567"',
    '"abcdef"',
    '"12 456"',
    '"\\u0661\\u0662\\u0663456"',
    '"ABCD-EFGH-IJKL-MN0P"',
    '"aaaa-aaaa-aaaa"',
    '"a1aa-aaaa-aaaa-aaaa"',
]
NO_RATE = [
    "null", "1", "1.5", "0", "-1", "true", "[]", "{}", "NaN", "Infinity", "1e2", '""', '" "', '"0"', '"0.0"', '"-1"', '"+1"', '"1e2"', '"NaN"',
    '"Infinity"', '"01"', '"1."', '".5"', '"1,5"', '"1_0"', '" 1"', '"1\\n"', '"1/2"', '"\\u0661"', '"0.00000000001"', '"12345678901"', '"' + "9" * 5000 + '"',
]  # fmt: skip
NO_CHOICE = ["null", "1", "1.5", "true", "[]", "{}", '""', '"x"', '"ACTIVE"', '"\\u0000"', '"\\ud800"']


def no_text_over(most: int) -> list[str]:
    return [*NO_TEXT, json.dumps("x" * (most + 1)), json.dumps("ä" * (most + 1)), json.dumps("x" * 60_000)]


def in_days(days: int) -> str:
    return json.dumps((datetime.now(UTC) + timedelta(days)).isoformat())


TOMORROW = in_days(1)


def as_json(fields: dict[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in fields.items()) + "}"


def no_member(good: dict[str, str], wrong: dict[str, list[str]]) -> list[str]:
    """An object with each of its members wrong in each way, or not there, or one too many; and what is no object."""
    texts = [as_json({**good, name: text}) for name, texts in wrong.items() for text in texts]
    missing = [as_json({name: text for name, text in good.items() if name != left_out}) for left_out in good]
    return [*texts, *missing, as_json({**good, "hold": "true"}), "null", "1", "1.5", "true", "[]", '""', '"x"', "{}"]


NO_RRULE = [
    *NO_TEXT, json.dumps("x" * 501), '"FREQ"', '"FREQ="', '"freq=daily"', '"RRULE:FREQ=DAILY"', '"FREQ=DAILY;"', '"FREQ=DAILY;FREQ=DAILY"',
    '"FREQ=SECONDLY"', '"FREQ=MINUTELY"', '"FREQ=MINUTELY;INTERVAL=60"', '"FREQ=FORTNIGHTLY"', '"INTERVAL=2"', '"FREQ=DAILY;X-FOO=1"',
    '"FREQ=DAILY;BYSECOND=0,30"', '"FREQ=YEARLY;BYWEEKNO=20"', '"FREQ=YEARLY;BYYEARDAY=1"', '"FREQ=DAILY;INTERVAL=0"', '"FREQ=DAILY;INTERVAL=-1"',
    '"FREQ=DAILY;INTERVAL=+1"', '"FREQ=DAILY;INTERVAL=1.5"', '"FREQ=DAILY;INTERVAL=\u0661"', '"FREQ=YEARLY;INTERVAL=11"',
    '"FREQ=DAILY;INTERVAL=' + "9" * 400 + '"', '"FREQ=DAILY;COUNT=0"', '"FREQ=DAILY;COUNT=5001"', '"FREQ=DAILY;COUNT=1;UNTIL=20990101T000000Z"',
    '"FREQ=DAILY;UNTIL=20990101"', '"FREQ=DAILY;UNTIL=20990101T000000"', '"FREQ=DAILY;UNTIL=20990230T000000Z"', '"FREQ=DAILY;UNTIL=20200101T000000Z"',
    '"FREQ=HOURLY;BYMINUTE=0,30"', '"FREQ=DAILY;BYMINUTE=60"', '"FREQ=DAILY;BYHOUR=24"', '"FREQ=DAILY;BYHOUR=1,,2"', '"FREQ=DAILY;BYMONTH=13"',
    '"FREQ=DAILY;BYMONTHDAY=0"', '"FREQ=DAILY;BYMONTHDAY=32"', '"FREQ=WEEKLY;BYMONTHDAY=1"', '"FREQ=WEEKLY;BYDAY=1MO"', '"FREQ=MONTHLY;BYDAY=0MO"',
    '"FREQ=MONTHLY;BYDAY=54MO"', '"FREQ=MONTHLY;BYDAY=XX"', '"FREQ=DAILY;BYSETPOS=1"', '"FREQ=DAILY;WKST=XX"',
    # Never, or not within ten years.
    '"FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30"', '"FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30"', '"FREQ=HOURLY;INTERVAL=2;BYHOUR=0"',
    '"FREQ=HOURLY;INTERVAL=24;BYHOUR=3"', '"FREQ=MONTHLY;BYDAY=MO;BYSETPOS=6"', '"FREQ=DAILY;INTERVAL=7;BYDAY=SU"',
]  # fmt: skip
NO_TIME_ZONE = [
    *NO_TEXT,
    '"CET+1"',
    '"Europe/Nowhere"',
    '"europe/prague"',
    '"../etc/passwd"',
    '"/etc/localtime"',
    '"+01:00"',
    json.dumps("x" * 65),
]
NO_RECURRENCE = no_member(
    {"rrule": '"FREQ=DAILY"', "time_zone": '"Europe/Prague"', "start": '"2099-02-06T12:00:00Z"'},
    {"rrule": NO_RRULE, "time_zone": NO_TIME_ZONE, "start": [*NO_MOMENT, '"2099-01-31T12:00:00.5Z"'], "month_end": NO_CHOICE},
)

NO_COUNTERPARTIES = [
    "null", "1", "true", "{}", '""', '"outside"', "[]", "[null]", "[1]", '[""]', '["Outside"]', '["x"]', '["\\u0000"]', json.dumps(["outside"] * 101),
]  # fmt: skip
NO_CLOCK = [*NO_TEXT, '"8:00"', '"24:00"', '"08:60"', '"0800"', '"08:00:00"', '"08:00Z"', '"\\u0660\\u0668:00"', '" 08:00"', '"08:0"']
NO_HOURS = no_member(
    {"opens": '"08:00"', "closes": '"18:00"', "time_zone": '"Europe/Prague"'},
    {"opens": [*NO_CLOCK, '"18:00"'], "closes": NO_CLOCK, "time_zone": NO_TIME_ZONE},
)
NO_EXPRESSION = [
    *no_text_over(1_000), '"transaction"', '"transaction.amount"', '"amount > 1"', '"transaction.total > 1"', '"transaction.amount > 1.5"',
    '"transaction.amount > \'1\'"', '"true &&"', '"[1].all(x, x > 0)"', '"transaction.type.matches(\'a\')"', json.dumps("(" * 30 + "true" + ")" * 30),
]  # fmt: skip

NO_POSITION = [
    "null", "true", "false", "[]", "{}", "[1]", '""', '"x"', '"1"', '"0"', "1.5", "1.0", "1e2", "NaN", "Infinity", "-0", "-1", "-0.0",
    str(2**63), str(2**64), "9" * 40, "9" * 5000,
]  # fmt: skip


def batch_of(**fields: str) -> str:
    good = {"type": '"credit"', "account_id": '"{account}"', "amount": '"1.00"', "currency": '"USD"'}
    return f"[{as_json({**good, **fields})}]"


NO_BATCH = [
    "null", "1", "1.5", "true", "[]", "{}", '""', "[null]", "[1]", "[[]]", '["x"]', "[{}]",
    *[batch_of(type=text) for text in [*NO_CHOICE, '"rollback"', '"Credit"']],
    *[batch_of(amount=text) for text in NO_AMOUNT],
    *[batch_of(account_id=text) for text in NO_ID],
    *[batch_of(currency=text) for text in NO_CURRENCY],
    *[batch_of(type='"transfer"', to_currency=text) for text in NO_CURRENCY],
    *[batch_of(metadata=text) for text in NO_METADATA],
    *[batch_of(effective_at=text) for text in [*NO_MOMENT, '"2999-01-01T00:00:00Z"']],
    *[batch_of(reference=text) for text in no_text_over(100)],
    *[batch_of(**{name: '"x"'}) for name in ("batch_id", "batch_index", "lane", "minor", "to_user_id", "from_account_id", "mode", "")],
]  # fmt: skip

# method, path, who asks, a good body as JSON texts, and for each field what is wrong for it.
BODIES: dict[str, tuple[str, str, str, dict[str, str], dict[str, list[str]]]] = {
    "open account": (
        "POST", "/accounts", "alice", {"currency": '"USD"', "name": '"Household"'},
        {"currency": NO_CURRENCY, "name": no_text_over(100), "user_id": NO_ID},
    ),
    "change account": (
        "PATCH", "/accounts/{account}", "teller", {"name": '"Household"', "status": '"active"', "overdraft_limit": '"1.00"'},
        {
            # No name is a name, and no overdraft is a limit.
            "name": [text for text in no_text_over(100) if text != "null"],
            "status": NO_CHOICE,
            "overdraft_limit": [text for text in NO_AMOUNT if text not in ("0", '"0"', '"0.00"')],
        },
    ),
    **{
        kind: (
            "POST", f"/transactions/{kind}", "alice",
            {"account_id": '"{account}"', "amount": '"1.00"', "currency": '"USD"', "description": '"Rent"', "reference": '"A-1"',
             "metadata": '{"a": "b"}', "effective_at": '"2020-01-31T12:00:00Z"'},
            {"account_id": NO_ID, "user_id": NO_ID, "amount": NO_AMOUNT, "currency": NO_CURRENCY, "description": no_text_over(500),
             "reference": no_text_over(100), "metadata": NO_METADATA, "effective_at": [*NO_MOMENT, '"2999-01-01T00:00:00Z"']},
        )
        for kind in ("credit", "debit")
    },
    "transfer": (
        "POST", "/transactions/transfer", "alice",
        {"from_account_id": '"{account}"', "to_account_id": '"{bobs_account}"', "amount": '"1.00"', "currency": '"USD"',
         "description": '"Rent"', "reference": '"A-1"', "metadata": '{"a": "b"}'},
        {"from_account_id": NO_ID, "to_account_id": NO_ID, "to_user_id": NO_ID, "to_username": no_text_over(64), "amount": NO_AMOUNT,
         "currency": NO_CURRENCY, "description": no_text_over(500), "reference": no_text_over(100), "metadata": NO_METADATA},
    ),
    "exchange": (
        "POST", "/transactions/transfer", "alice",
        {"from_account_id": '"{account}"', "to_user_id": '"{bob}"', "amount": '"1.00"', "currency": '"USD"', "to_currency": '"EUR"'},
        {"amount": NO_AMOUNT, "currency": NO_CURRENCY, "to_currency": NO_CURRENCY, "quote_id": NO_ID, "hold": NO_FLAG},
    ),
    "publish rate": (
        "POST", "/fx/rates", "admin", {"currency": '"KES"', "rate": '"144.35"', "date": '"2026-01-30"'},
        {"currency": [*NO_CURRENCY, '"EUR"'], "rate": NO_RATE, "date": [*NO_DAY, '"2999-01-01"']},
    ),
    "quote": (
        "POST", "/fx/quotes", "alice", {"amount": '"1.00"', "currency": '"USD"', "to_currency": '"EUR"'},
        {"amount": NO_AMOUNT, "currency": NO_CURRENCY, "to_currency": [*NO_CURRENCY, '"USD"']},
    ),
    "batch": (
        "POST", "/transactions/batch", "alice",
        {"mode": '"atomic"', "transactions": '[{"type": "credit", "account_id": "{account}", "amount": "1.00", "currency": "USD"}]'},
        {"mode": NO_CHOICE, "transactions": NO_BATCH},
    ),
    "hold": (
        "POST", "/transactions/transfer", "alice",
        {"to_account_id": '"{bobs_account}"', "amount": '"1.00"', "currency": '"USD"', "hold": "true", "expires_at": TOMORROW},
        {"amount": NO_AMOUNT, "hold": NO_FLAG,
         "expires_at": [*NO_MOMENT, '"2020-01-31T12:00:00Z"', '"2999-01-01T00:00:00Z"', in_days(0), in_days(32)]},
    ),
    "capture": (
        "POST", "/transactions/{hold}/capture", "alice",
        {"amount": '"1.00"', "description": '"Rent"', "reference": '"A-1"', "metadata": '{"a": "b"}'},
        {"amount": NO_AMOUNT, "description": no_text_over(500), "reference": no_text_over(100), "metadata": NO_METADATA},
    ),
    "void": ("POST", "/transactions/{hold}/void", "alice", {"reason": '"Out of stock"'}, {"reason": no_text_over(500)}),
    "rollback": (
        "POST", "/transactions/{transaction}/rollback", "alice", {"amount": '"1.00"', "reason": '"Returned goods"'},
        {"amount": NO_AMOUNT, "reason": no_text_over(500)},
    ),
    "register": (
        "POST", "/auth/register", "alice",
        {"username": '"mallory"', "email": '"mallory@example.com"', "password": '"correct horse battery staple"'},
        {"username": [*no_text_over(64), '"a b"', '"ab"', '"al\\u00efce"', '"a@b.example"'],
         "email": [*no_text_over(254), '"mallory"', '"a@b"', '"a@@example.com"', '"a b@example.com"', '"a@example.com\\n"'],
         "password": ["null", "1", "true", "[]", "{}", '""', '"\\u0000"', '"\\ud800"', '"short"', json.dumps("x" * 257)]},
    ),
    "log in": (
        "POST", "/auth/login", "alice", {"username": '"mallory"', "password": '"correct horse battery staple"'},
        {"username": no_text_over(254), "password": NO_PASSWORD, "code": NO_CODE},
    ),
    "begin totp": ("POST", "/auth/totp", "alice", {"password": '"correct horse battery staple"'}, {"password": NO_PASSWORD}),
    "confirm totp": ("POST", "/auth/totp/confirm", "alice", {"code": '"287082"'}, {"code": NO_CODE}),
    "disable totp": (
        "POST", "/auth/totp/disable", "alice", {"password": '"correct horse battery staple"', "code": '"287082"'},
        {"password": NO_PASSWORD, "code": NO_CODE},
    ),
    "change user": (
        "PUT", "/users/{alice}", "admin", {"username": '"mallory"'},
        {"username": [*no_text_over(64), '"a b"', '"ab"'], "email": [*no_text_over(254), '"mallory"'], "role": NO_CHOICE, "status": NO_CHOICE,
         "password": ["null", "1", "true", "[]", "{}", '""', '"\\u0000"', '"short"', json.dumps("x" * 257)]},
    ),
    "schedule": (
        "POST", "/schedules", "alice",
        {"transfer": '{"to_account_id": "{bobs_account}", "amount": "1.00", "currency": "USD"}', "run_at": '"2099-01-31T12:00:00Z"',
         "misfire": '"skip"', "retry": '{"attempts": 2, "delay_seconds": 60}', "name": '"Rent"'},
        {"transfer": no_member(
            {"to_account_id": '"{bobs_account}"', "amount": '"1.00"', "currency": '"USD"'},
            {"amount": NO_AMOUNT, "currency": NO_CURRENCY, "to_account_id": NO_ID, "from_account_id": NO_ID, "description": no_text_over(500),
             "reference": no_text_over(100), "metadata": NO_METADATA}),
         "run_at": [*NO_MOMENT, '"2020-01-31T12:00:00Z"'], "recurrence": NO_RECURRENCE, "misfire": NO_CHOICE,
         "retry": no_member({"attempts": "2", "delay_seconds": "60"}, {"attempts": [*NO_POSITION, "0", "6"], "delay_seconds": [*NO_POSITION, "0", "604801"]}),
         "name": no_text_over(100)},
    ),
    "change schedule": (
        "PATCH", "/schedules/{schedule}", "alice", {"name": '"Rent"'},
        {"status": [*NO_CHOICE, '"deleted"', '"finished"'], "amount": NO_AMOUNT, "description": [text for text in no_text_over(500) if text != "null"],
         "run_at": [*NO_MOMENT, '"2020-01-31T12:00:00Z"'], "recurrence": NO_RECURRENCE, "misfire": NO_CHOICE,
         "retry": no_member({"attempts": "2", "delay_seconds": "60"}, {"attempts": ["0", "6"]}),
         "name": [text for text in no_text_over(100) if text != "null"]},
    ),
    "approve": ("POST", "/transactions/{hold}/approve", "admin", {"reason": '"Called back"'}, {"reason": no_text_over(500)}),
    "reject": ("POST", "/transactions/{hold}/reject", "admin", {"reason": '"Nobody answered"'}, {"reason": no_text_over(500)}),
    "limit": (
        "POST", "/limits", "admin", {"account_id": '"{account}"', "currency": '"USD"', "kind": '"sum"', "amount": '"10.00"', "window": '"day"'},
        {"role": [*NO_CHOICE, '"customer"'], "user_id": [*NO_ID, UNUSED_ID], "account_id": [*NO_ID, UNUSED_ID],
         "currency": [*NO_CURRENCY, '"EUR"'], "amount": NO_AMOUNT, "window": [*NO_CHOICE, '"year"'],
         "count": [*NO_POSITION, "1", "1000001"], "counterparties": NO_COUNTERPARTIES, "hours": NO_HOURS},
    ),
    "hours": (
        "POST", "/limits", "admin",
        {"role": '"customer"', "currency": '"USD"', "kind": '"hours"', "hours": '{"opens": "08:00", "closes": "18:00", "time_zone": "UTC"}'},
        {"hours": NO_HOURS, "amount": ['"1.00"'], "counterparties": ["[]"]},
    ),
    "change limit": (
        "PATCH", "/limits/{limit}", "admin", {"amount": '"20.00"'},
        {"amount": NO_AMOUNT, "window": NO_CHOICE, "count": ["1"], "hours": ['{"opens": "08:00", "closes": "18:00", "time_zone": "UTC"}'],
         "counterparties": ["[]"]},
    ),
    "rule": (
        "POST", "/rules", "admin", {"name": '"Large"', "expression": '"transaction.amount > 1"', "effect": '"flag"', "enabled": "false"},
        {"name": no_text_over(100), "expression": NO_EXPRESSION, "effect": [*NO_CHOICE, '"allow"'], "enabled": NO_FLAG},
    ),
    "change rule": (
        "PATCH", "/rules/{rule}", "admin", {"name": '"Large"'},
        {"name": no_text_over(100), "expression": NO_EXPRESSION, "effect": NO_CHOICE, "enabled": NO_FLAG},
    ),
    "replay": (
        "POST", "/admin/replays", "auditor", {"until_position": "0", "account_id": '"{account}"'},
        {"until_position": NO_POSITION, "until_time": NO_MOMENT, "account_id": NO_ID,
         "from_start": ["null", "0", "1", "1.0", '"true"', '"yes"', '""', "[]", "{}"]},
    ),
}  # fmt: skip

# Nothing in it must be there, so nothing is a body too.
ALL_OPTIONAL = {"replay", "capture", "void", "approve", "reject"}

REQUIRED = {
    "open account": ["currency"],
    "credit": ["account_id", "amount", "currency"],
    "debit": ["account_id", "amount", "currency"],
    "transfer": ["to_account_id", "amount", "currency"],
    "exchange": ["amount", "currency"],
    "publish rate": ["currency", "rate"],
    "quote": ["amount", "currency", "to_currency"],
    "batch": ["mode", "transactions"],
    "rollback": ["reason"],
    "register": ["username", "email", "password"],
    "log in": ["username", "password"],
    "begin totp": ["password"],
    "confirm totp": ["code"],
    "disable totp": ["password", "code"],
    "schedule": ["transfer", "run_at"],
    "limit": ["currency", "kind", "amount", "window"],
    "rule": ["name", "expression", "effect"],
}

UNKNOWN = [
    "id",
    "user_id",
    "role",
    "status",
    "balance",
    "available",
    "held",
    "version",
    "is_default",
    "lane",
    "actor_id",
    "created_at",
    "minor",
    "__proto__",
    "",
]


def send(stage: Any, request: str, body: str | bytes, content_type: str | None = "application/json", **kwargs: Any) -> Any:
    method, path, who, *_ = BODIES[request]
    data = stage.fill(body) if isinstance(body, str) else body
    return getattr(stage, who).request(method, stage.fill(path), data=data, content_type=content_type, **kwargs)


FIELDS = [(request, field) for request, (*_, fields) in BODIES.items() for field in fields]


@pytest.mark.parametrize(("request_", "field"), FIELDS)
def test_a_wrong_value_is_refused_with_a_pointer_to_it(stage, nothing_written, request_, field):
    good, wrong = BODIES[request_][3:]
    with nothing_written():
        for text in wrong[field]:
            body = {**good, field: text}
            if field in ("user_id", "to_user_id", "to_username"):
                # They stand in place of an account.
                body.pop("account_id", None)
                body.pop("to_account_id", None)
            if field == "recurrence":
                body.pop("run_at", None)
            problem = check_problem(send(stage, request_, as_json(body)), 422)
            pointers = [error["pointer"] for error in problem["errors"]]
            assert all(pointer.partition("/")[2].split("/")[0] == field for pointer in pointers), (text[:60], pointers)


@pytest.mark.parametrize(("request_", "field"), [(request, field) for request, fields in REQUIRED.items() for field in fields])
def test_a_missing_field_is_refused_with_a_pointer_to_it(stage, nothing_written, request_, field):
    body = {name: text for name, text in BODIES[request_][3].items() if name != field}
    with nothing_written():
        check_problem(send(stage, request_, as_json(body)), 422, f"/{field}")


@pytest.mark.parametrize("request_", BODIES)
def test_an_unknown_field_is_refused_and_never_ignored(stage, nothing_written, request_):
    good, known = BODIES[request_][3:]
    with nothing_written():
        for name in UNKNOWN:
            if name not in known:
                check_problem(send(stage, request_, as_json({**good, name: '"x"'})), 422, f"/{name}")


ELSE = [
    # what, body, content type, status
    ("empty", b"", "application/json", {400, 422}),
    ("not JSON", b"{", "application/json", {400}),
    ("single quotes", b"{'a': 1}", "application/json", {400}),
    ("a trailing comma", b'{"a": 1,}', "application/json", {400}),
    ("a comment", b"{} // comment", "application/json", {400}),
    ("two values", b"{} {}", "application/json", {400}),
    ("bad UTF-8", b'{"name": "\xff\xfe"}', "application/json", {400}),
    ("UTF-16", '{"name": "a"}'.encode("utf-16"), "application/json", {400}),
    ("a byte order mark", b"\xef\xbb\xbf{}", "application/json", {400}),
    ("a raw NUL", b'{"name": "\x00"}', "application/json", {400}),
    ("a key twice", b'{"currency": "USD", "currency": "EUR"}', "application/json", {400}),
    ("a key twice deep within", b'{"metadata": {"a": "b", "a": "c"}}', "application/json", {400}),
    ("deep lists", b"[" * 30_000 + b"]" * 30_000, "application/json", {400}),
    ("deep objects", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "application/json", {400}),
    ("33 levels", b'{"metadata":' + b"[" * 32 + b"]" * 32 + b"}", "application/json", {400}),
    ("a list", b"[]", "application/json", {422}),
    ("null", b"null", "application/json", {422}),
    ("a number", b"1", "application/json", {422}),
    ("NaN", b"NaN", "application/json", {400, 422}),
    ("a string", b'"x"', "application/json", {422}),
    ("an empty object", b"{}", "application/json", {422}),
    ("NUL in an unknown key", b'{"\\u0000": 1}', "application/json", {422}),
    ("half a surrogate pair in an unknown key", b'{"\\ud800": 1}', "application/json", {422}),
    ("NUL under half a surrogate pair", b'{"\\ud800": {"a": "\\u0000"}}', "application/json", {422}),
    ("half a surrogate pair under another", b'{"a": {"\\ud800": ["\\ud800"]}}', "application/json", {422}),
    ("10,000 unknown keys", json.dumps({str(i): 1 for i in range(6_000)}).encode(), "application/json", {422}),
    ("text", b"{}", "text/plain", {415}),
    ("a form", b"currency=USD", "application/x-www-form-urlencoded", {415}),
    ("a multipart form", b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x", {415}),
    ("XML", b"<a/>", "application/xml", {415}),
    ("no content type", b"{}", None, {415}),
    ("a content type that is none", b"{}", "json", {415}),
    ("64 KB and more", b'{"name": "' + b"x" * 65_536 + b'"}', "application/json", {413}),
    ("10 MB", b"x" * 10_000_000, "application/json", {413}),
    ("10 MB of another type", b"x" * 10_000_000, "text/plain", {413, 415}),
]  # fmt: skip


@pytest.mark.parametrize("request_", BODIES)
def test_a_body_that_is_no_json_object_of_ours_is_refused(stage, nothing_written, request_):
    with nothing_written():
        for what, body, content_type, statuses in ELSE:
            if request_ in ALL_OPTIONAL and what in ("empty", "an empty object"):
                continue
            # A batch may be as large as 8 MB.
            if request_ == "batch" and what == "64 KB and more":
                continue
            response = send(stage, request_, body, content_type)
            assert response.status_code in statuses, (what, response.status_code, response.text[:300])
            check_problem(response, response.status_code)


@pytest.mark.parametrize("request_", ["credit", "debit", "transfer"])
def test_exactly_one_way_to_name_an_account_is_taken(stage, nothing_written, request_):
    good, fields = BODIES[request_][3:]
    ways = [name for name in ("account_id", "user_id", "to_account_id", "to_user_id", "to_username") if name in fields]
    with nothing_written():
        both = dict.fromkeys(ways, '"{alice}"')
        check_problem(send(stage, request_, as_json({**good, **both})), 422, f"/{ways[0]}")


NOBODY = "019b2f6e-8a00-7000-8000-000000000001"

NOT_THERE = [
    ("alice", "POST", "/accounts", {"currency": "USD", "user_id": "{bob}"}),
    ("teller", "POST", "/accounts", {"currency": "USD", "user_id": NOBODY}),
    ("alice", "GET", "/accounts/{bobs_account}", None),
    ("alice", "GET", f"/accounts/{NOBODY}", None),
    ("admin", "GET", f"/accounts/{NOBODY}", None),
    ("alice", "PATCH", "/accounts/{bobs_account}", {"name": "x"}),
    ("alice", "PATCH", "/accounts/{bobs_account}", {"status": "frozen"}),
    ("teller", "PATCH", f"/accounts/{NOBODY}", {"name": "x"}),
    ("alice", "GET", "/accounts/{bobs_account}/entries", None),
    ("alice", "GET", "/accounts/{bobs_account}/statement?from=2026-01-01&to=2026-02-01", None),
    ("alice", "GET", f"/accounts/{NOBODY}/entries", None),
    *[
        ("alice", "POST", f"/transactions/{kind}", {**party, "amount": "1.00", "currency": "USD"})
        for kind in ("credit", "debit")
        for party in ({"account_id": "{bobs_account}"}, {"account_id": NOBODY}, {"user_id": "{bob}"}, {"user_id": NOBODY})
    ],
    ("alice", "POST", "/transactions/debit", {"user_id": "{alice}", "amount": "1", "currency": "CHF"}),
    ("teller", "POST", "/transactions/credit", {"account_id": NOBODY, "amount": "1.00", "currency": "USD"}),
    ("teller", "POST", "/transactions/credit", {"user_id": NOBODY, "amount": "1.00", "currency": "USD"}),
    *[
        ("alice", "POST", "/transactions/transfer", {"amount": "1.00", "currency": "USD", **parties})
        for parties in (
            {"from_account_id": "{bobs_account}", "to_account_id": "{account}"},
            {"from_account_id": NOBODY, "to_account_id": "{account}"},
            {"to_account_id": NOBODY},
            {"to_user_id": NOBODY},
            {"to_username": "nobody-of-this-name"},
            {"to_account_id": "{bobs_account}", "quote_id": NOBODY},
        )
    ],
    ("teller", "POST", "/transactions/transfer", {"from_account_id": "{account}", "to_account_id": "{bobs_account}", "amount": 1, "currency": "USD"}),
    ("bob", "POST", "/transactions/{transaction}/rollback", {"reason": "x"}),
    ("alice", "POST", f"/transactions/{NOBODY}/rollback", {"reason": "x"}),
    *[("bob", "POST", f"/transactions/{{transaction}}/{act}", {}) for act in ("capture", "void")],
    *[("admin", "POST", f"/transactions/{NOBODY}/{act}", {}) for act in ("capture", "void")],
    ("bob", "GET", "/transactions/{transaction}", None),
    ("alice", "GET", f"/transactions/{NOBODY}", None),
    ("bob", "GET", "/transactions/batch/{batch}", None),
    ("alice", "GET", f"/transactions/batch/{NOBODY}", None),
    ("alice", "GET", "/transactions/history?account_id={bobs_account}", None),
    ("alice", "GET", f"/transactions/history?account_id={NOBODY}", None),
    ("alice", "GET", "/balances/current?account_id={bobs_account}", None),
    ("alice", "GET", f"/balances/current?account_id={NOBODY}", None),
    ("alice", "GET", "/balances/historical?account_id={bobs_account}", None),
    ("alice", "GET", f"/balances/historical?account_id={NOBODY}", None),
    ("alice", "GET", "/balances/at-time?account_id={bobs_account}&at=2026-01-31T12:00:00Z", None),
    ("alice", "GET", f"/balances/at-time?account_id={NOBODY}&at=2026-01-31T12:00:00Z", None),
    *[
        ("alice", "POST", "/schedules", {"run_at": "2099-01-31T12:00:00Z", "transfer": {"amount": "1.00", "currency": "USD", **parties}})
        for parties in (
            {"from_account_id": "{bobs_account}", "to_account_id": "{account}"},
            {"from_account_id": NOBODY, "to_account_id": "{account}"},
            {"to_account_id": NOBODY},
            {"to_user_id": NOBODY},
            {"to_username": "nobody-of-this-name"},
        )
    ],
    *[
        (who, method, f"/schedules/{schedule}{rest}", body)
        for who, schedule in (("alice", "{bobs_schedule}"), ("alice", NOBODY), ("admin", NOBODY))
        for method, rest, body in (("GET", "", None), ("GET", "/runs", None), ("PATCH", "", {"status": "paused"}), ("DELETE", "", None))
    ],
    *[
        ("admin", method, f"/{kind}/{NOBODY}", body)
        for kind, body_ in (("limits", {"amount": "1.00"}), ("rules", {"enabled": False}))
        for method, body in (("GET", None), ("PATCH", body_), ("DELETE", None))
    ],
    *[("admin", "POST", f"/transactions/{NOBODY}/{act}", {}) for act in ("approve", "reject")],
    ("bob", "GET", "/transactions/{transaction}/explanation", None),
    ("alice", "GET", f"/transactions/{NOBODY}/explanation", None),
    ("teller", "PATCH", "/schedules/{schedule}", {"status": "paused"}),
    ("teller", "DELETE", "/schedules/{schedule}", None),
    ("alice", "GET", "/users/{bob}", None),
    ("alice", "GET", f"/users/{NOBODY}", None),
    ("alice", "PUT", "/users/{bob}", {"username": "mallory"}),
    ("alice", "DELETE", "/users/{bob}", None),
    ("alice", "DELETE", "/auth/logins/{bobs_login}", None),
    ("admin", "DELETE", "/auth/logins/{bobs_login}", None),
    ("alice", "DELETE", f"/auth/logins/{NOBODY}", None),
    ("admin", "DELETE", "/users/{bob}/totp", None),
    ("admin", "DELETE", f"/users/{NOBODY}/totp", None),
]  # fmt: skip


@pytest.mark.parametrize(("who", "method", "path", "body"), NOT_THERE)
def test_what_is_not_there_and_what_is_not_yours_are_the_same_404(stage, nothing_written, who, method, path, body):
    body = None if body is None else json.loads(stage.fill(json.dumps(body)))
    with nothing_written():
        problem = check_problem(getattr(stage, who).request(method, stage.fill(path), json=body), 404)
    assert "errors" not in problem


def test_the_404_for_anothers_account_is_that_for_none_to_the_byte(stage):
    def answer(account_id):
        response = stage.alice.get(f"/accounts/{account_id}", headers={"X-Request-ID": "same"})
        return response.data.replace(account_id.encode(), b""), [name for name, _ in response.headers]

    assert answer(stage.bobs_account) == answer(new_id())


@pytest.mark.parametrize(
    "path",
    [
        "/accounts/{}",
        "/accounts/{}/entries",
        "/accounts/{}/statement",
        "/transactions/{}",
        "/transactions/{}/rollback",
        "/transactions/batch/{}",
        "/transactions/{}/capture",
        "/transactions/{}/void",
        "/users/{}",
        "/nothing/{}",
        "/admin/replays/{}",
        "/schedules/{}",
        "/schedules/{}/runs",
        "/limits/{}",
        "/rules/{}",
        "/transactions/{}/explanation",
        "/transactions/{}/approve",
        "/transactions/{}/reject",
        "/auth/logins/{}",
        "/users/{}/totp",
    ],
)
@pytest.mark.parametrize("malformed", ["x", "1", "%00", "..", "019b2f6e8a0070008000000000000001", "' OR 1=1 --", "é", "x" * 5000])
def test_a_malformed_id_in_the_path_is_not_found(stage, nothing_written, path, malformed):
    with nothing_written():
        method = "POST" if path.endswith(("rollback", "capture", "void", "approve", "reject")) else "GET"
        check_problem(stage.alice.request(method, path.format(quote(malformed, safe="%"))), 404)


QUERIES: dict[str, dict[str, str]] = {
    "/accounts": {"limit": "limit", "cursor": "cursor", "user_id": "id", "currency": "currency", "status": "choice"},
    "/accounts/{account}": {},
    "/accounts/{account}/entries": {"limit": "limit", "cursor": "cursor"},
    "/accounts/{account}/statement?to=2026-02-01": {"from": "day"},
    "/accounts/{account}/statement?from=2026-01-01": {"to": "day"},
    "/accounts/{account}/statement?from=2026-01-01&to=2026-02-01": {"format": "choice"},
    "/transactions/history": {
        "limit": "limit", "cursor": "cursor", "account_id": "id", "user_id": "id", "type": "choice", "status": "choice",
        "currency": "currency", "min_amount": "amount", "max_amount": "amount", "from": "moment", "to": "moment", "reference": "text",
        "batch_id": "id", "hold_id": "id", "schedule_id": "id", "review": "choice",
    },
    "/transactions/batch/{batch}": {"limit": "limit", "cursor": "cursor", "status": "choice"},
    "/transactions/{transaction}": {},
    "/schedules": {"limit": "limit", "cursor": "cursor", "user_id": "id", "status": "choice"},
    "/schedules/{schedule}": {},
    "/schedules/{schedule}/runs": {"limit": "limit", "cursor": "cursor"},
    "/transactions/{transaction}/explanation": {},
    "/limits": {
        "limit": "limit", "cursor": "cursor", "role": "choice", "user_id": "id", "account_id": "id", "currency": "currency", "kind": "choice",
    },
    "/limits/{limit}": {},
    "/rules": {"limit": "limit", "cursor": "cursor"},
    "/rules/{rule}": {},
    "/balances/current": {"limit": "limit", "cursor": "cursor", "account_id": "id", "currency": "currency", "user_id": "id"},
    "/balances/historical?account_id={account}": {"from": "moment", "to": "moment", "interval": "choice"},
    "/balances/historical?from=2026-01-01T00:00:00Z": {"account_id": "id"},
    "/balances/at-time?account_id={account}": {"at": "moment"},
    "/balances/at-time?account_id={account}&at=2026-01-01T00:00:00Z": {"known_at": "moment"},
    "/balances/at-time?at=2026-01-01T00:00:00Z": {"account_id": "id"},
    "/users": {"limit": "limit", "cursor": "cursor", "role": "choice", "status": "choice", "q": "text"},
    "/users/{alice}": {},
    "/fx/rates": {"date": "day"},
    "/fx/position": {},
    "/events": {"limit": "limit", "cursor": "cursor", "stream_id": "id", "type": "choice", "from": "position", "follow": "choice"},
    "/audit-logs": {
        "limit": "limit", "cursor": "cursor", "entity_type": "choice", "actor_id": "id", "action": "action", "from": "moment", "to": "moment",
    },
    "/audit-logs?entity_type=account": {"entity_id": "id"},
    "/auth/me": {},
    "/auth/logins": {"limit": "limit", "cursor": "cursor"},
    "/auth/totp": {},
    "/admin/stats": {},
    "/admin/replays/{replay}": {},
    "/admin/replays/{replay}/accounts": {"limit": "limit", "cursor": "cursor"},
}  # fmt: skip


def plain(texts: list[str]) -> list[str]:
    """The strings among the JSON texts, as a query can carry them."""
    values = [json.loads(text) for text in texts if text.startswith('"')]
    return [value for value in values if value.isascii() or value.encode("utf-8", "replace") == value.encode("utf-8", "surrogatepass")]


WRONG_IN_QUERY = {
    "limit": ["", "0", "-1", "+1", "201", "1000000000", "9" * 5000, "1.0", "1e2", "1_0", " 7", "٣", "abc", "NaN", "\x00"],
    "position": ["", "-1", "+1", "-0", "9" * 5000, str(2**63), "1.0", "1e2", "1_0", " 7", "٣", "abc", "NaN", "\x00"],
    "action": ["", "x", "x.", ".x", "account.opened ", "Account.opened", "a.b.c", "\x00", "x.\x00", "x." + "y" * 63, "' OR 1=1 --"],
    "cursor": ["", "x", "e30", "WzFd.x.y", "'; DROP TABLE accounts; --", "x" * 501, "\x00"],
    "id": plain(NO_ID),
    "currency": plain(NO_CURRENCY),
    "choice": plain(NO_CHOICE),
    "moment": plain(NO_MOMENT),
    "day": plain(NO_DAY),
    "amount": [value for value in plain(NO_AMOUNT) if value not in ("0", "0.00")],
    "text": ["", "\x00", "a\x00b", "\x1b[31m", "x" * 255],
}


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in QUERIES.items() for name in names])
def test_a_wrong_query_parameter_is_refused_with_a_pointer_to_it(stage, nothing_written, path, name):
    with nothing_written():
        for value in WRONG_IN_QUERY[QUERIES[path][name]]:
            extra = "&currency=USD" if name.endswith("_amount") else ""
            asked = f"{stage.fill(path)}{'&' if '?' in path else '?'}{name}={quote(value)}{extra}"
            check_problem(stage.admin.get(asked), 422, f"/{name}")


@pytest.mark.parametrize("path", QUERIES)
@pytest.mark.parametrize("name", ["nope", "limits", "LIMIT", "dry_run", "offset", ""])
def test_an_unknown_query_parameter_is_refused(stage, nothing_written, path, name):
    with nothing_written():
        check_problem(stage.admin.get(f"{stage.fill(path)}{'&' if '?' in path else '?'}{name}=1"), 422, f"/{name}")


@pytest.mark.parametrize("request_", BODIES)
def test_an_unknown_query_parameter_keeps_an_act_from_being_done(stage, nothing_written, request_):
    method, path, who, good, _ = BODIES[request_]
    with nothing_written():
        for query in ("dry-run=true", "dryrun=true", "dry_run=yes", "dry_run=TRUE", "dry_run=", "dry_run=1"):
            response = getattr(stage, who).request(method, f"{stage.fill(path)}?{query}", json=json.loads(stage.fill(as_json(good))))
            check_problem(response, 422, "/" + query.partition("=")[0])


def test_a_cursor_serves_its_own_list_and_no_other(stage, nothing_written):
    for _ in range(2):
        stage.alice.open_account("EUR")
    first = stage.alice.get("/accounts?limit=1").json
    cursor = first["next_cursor"]
    assert stage.alice.get(f"/accounts?limit=2&cursor={cursor}").status_code == 200
    with nothing_written():
        for path in (
            f"/accounts?currency=EUR&cursor={cursor}",
            f"/accounts?status=active&cursor={cursor}",
            f"/balances/current?cursor={cursor}",
            f"/transactions/history?cursor={cursor}",
            f"/accounts/{stage.account}/entries?cursor={cursor}",
            f"/accounts?cursor={cursor[:-1]}",
            f"/accounts?cursor={cursor}A",
            f"/accounts?cursor={cursor[::-1]}",
        ):
            check_problem(stage.alice.get(path), 422, "/cursor")


GOOD_TRANSFER = {"to_account_id": "{bobs_account}", "amount": "1.00", "currency": "USD"}


@pytest.mark.parametrize("key", ["", "x" * 256, "käse", "a\tb", "\x7f", "日本"])
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_an_idempotency_key_that_is_none_is_refused(stage, nothing_written, key, query):
    with nothing_written():
        body = json.loads(stage.fill(json.dumps(GOOD_TRANSFER)))
        # As a server hands them on: bytes of any kind, read as Latin-1 (PEP 3333).
        environ = {"HTTP_IDEMPOTENCY_KEY": key.encode().decode("latin-1")}
        response = stage.alice.post(f"/transactions/transfer{query}", body, environ_overrides=environ)
        check_problem(response, 422, "/headers/Idempotency-Key")


@pytest.mark.parametrize(
    "prefer", ["", "wait", "wait=", "wait=0", "wait=31", "wait=-1", "wait=1.5", "wait=1e1", "wait=999999999", "x=wait=5", "é"]
)
def test_a_preference_that_cannot_be_honoured_is_ignored(stage, prefer):
    body = json.loads(stage.fill(json.dumps(GOOD_TRANSFER)))
    environ = {"HTTP_PREFER": prefer.encode().decode("latin-1")}
    started = time.monotonic()
    response = stage.alice.post("/transactions/transfer", body, environ_overrides=environ)
    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers
    assert time.monotonic() - started < 1


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def bad_tokens(app, stage) -> dict[str, str]:
    """What might come in place of a token."""
    secret = app.config["JWT_SECRET_KEY"]
    claims = jwt.decode(stage.alice.token, secret, algorithms=["HS256"], audience="bank")
    header, payload, signature = stage.alice.token.split(".")

    def signed(**changes: Any) -> str:
        kept = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return jwt.encode(kept, secret, algorithm="HS256")

    hs512 = jwt.encode(claims, secret, algorithm="HS512")
    unsigned = f"{part({'alg': 'none', 'typ': 'JWT'})}.{payload}."
    upper = f"{part({'alg': 'NONE', 'typ': 'JWT'})}.{payload}.{signature}"
    forged_payload = part({**claims, "sub": stage.bob.id})
    empty_key = f"{header}.{payload}"
    return {
        "none": "",
        "garbage": "x",
        "three dots": "...",
        "alg none": unsigned,
        "alg NONE": upper,
        "another key": jwt.encode(claims, secrets.token_hex(32), algorithm="HS256"),
        "an empty key": empty_key + "." + base64.urlsafe_b64encode(hmac.digest(b"", empty_key.encode(), hashlib.sha256)).decode().rstrip("="),
        "another algorithm": hs512,
        "another payload": f"{header}.{forged_payload}.{signature}",
        "a cut signature": stage.alice.token[:-4],
        "expired": signed(exp=int(time.time()) - 3600),
        "not yet valid": signed(nbf=int(time.time()) + 3600),
        "without exp": signed(exp=None),
        "another issuer": signed(iss="mallory"),
        "another audience": signed(aud="mallory"),
        "a refresh token": signed(type="refresh"),
        "a login that is not there": signed(sid=new_id()),
        "a login of another": signed(sub=stage.bob.id),
        "an id that is none": signed(sub="x"),
        "jku": jwt.encode(claims, secrets.token_hex(32), algorithm="HS256", headers={"jku": "https://mallory.example/keys", "kid": "../../dev/null"}),
    }  # fmt: skip


def routes(app) -> list[tuple[str, str]]:
    """Every operation of the document that needs a login, with ids that are there in its path."""
    document = app.test_client().get("/openapi.json").json
    return [
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "parameters" and operation.get("security")
    ]


def test_no_route_takes_a_token_that_is_not_good(app, stage, client, bad_tokens, nothing_written):
    found = routes(app)
    assert len(found) >= 20
    with nothing_written():
        for method, path in found:
            for name, value in {
                "account_id": stage.account,
                "transaction_id": stage.transaction,
                "user_id": stage.alice.id,
                "replay_id": stage.replay,
                "batch_id": stage.batch,
                "schedule_id": stage.schedule,
                "limit_id": stage.limit,
                "rule_id": stage.rule,
                "login_id": stage.login,
            }.items():
                path = path.replace("{" + name + "}", value)
            check_problem(client.open(path, method=method, json={}), 401)
            for what, token in bad_tokens.items():
                if what == "a refresh token" and path.endswith("/refresh"):
                    continue
                response = client.open(path, method=method, json={}, headers={"Authorization": f"Bearer {token}"})
                assert response.status_code == 401, (what, method, path, response.text)
                check_problem(response, 401)
                assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "{token}", "Token {token}", "Bearer {token} x", "Bearer {token},"]
)
def test_an_authorization_header_of_another_form_is_refused(stage, client, nothing_written, header):
    with nothing_written():
        check_problem(client.get("/api/v1/accounts", headers={"Authorization": header.format(token=stage.alice.token)}), 401)


def test_a_token_is_taken_from_the_header_and_from_nowhere_else(stage, client):
    token = stage.alice.token
    check_problem(client.get(f"/api/v1/accounts?access_token={token}&jwt={token}"), 401)
    client.set_cookie("access_token_cookie", token)
    check_problem(client.get("/api/v1/accounts"), 401)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/transactions/transfer"), ("POST", "/balances/current"), ("DELETE", "/accounts"), ("PUT", "/auth/me")]
)
def test_a_method_that_is_not_there_says_which_are(stage, nothing_written, method, path):
    with nothing_written():
        response = stage.alice.request(method, path)
        check_problem(response, 405)
    assert response.headers["Allow"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", "/accounts/{account}"), ("PUT", "/users/{alice}"), ("DELETE", "/users/{alice}")]
    + [(method, path) for path in ("/limits/{limit}", "/rules/{rule}") for method in ("PATCH", "DELETE")],
)
@pytest.mark.parametrize("if_match", ['"x"', '"', ",", "", "W/"])
def test_an_if_match_that_names_no_version_keeps_a_change_from_being_made(stage, nothing_written, method, path, if_match):
    body = None if method == "DELETE" else {"name": "x"} if method == "PATCH" else {"username": "mallory"}
    if path == "/limits/{limit}" and body:
        body = {"amount": "1.00"}
    with nothing_written():
        check_problem(stage.admin.request(method, stage.fill(path), json=body, headers={"If-Match": if_match}), 412)
