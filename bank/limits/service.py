"""Setting, reading and removing limits and rules. Each act is an event; the tables are what the events say now."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from marshmallow import ValidationError
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.audit import service as audit
from bank.db import reader, unit_of_work
from bank.errors import NotFound, TooManyLimits, TooManyRules, Unprocessable
from bank.events import store as events
from bank.events.types import Happened, LimitRemoved, LimitSet, Origin, RuleRemoved, RuleSet
from bank.limits.checks import LimitKind
from bank.limits.schemas import KINDS, check_said, resolve
from bank.money import format_amount
from bank.web.conditional import check_if_match
from bank.web.context import new_id
from bank.web.fields import timestamp

# A payment is asked about each limit of its payer and about each rule.
_MOST_LIMITS = 50
_MOST_RULES = 50

_LIMIT = """
    id::text, scope, role, user_id::text, account_id::text, currency, kind, amount, payments, span, counterparties, opens_at, closes_at,
    time_zone, version, created_at, updated_at
"""
_RULE = "id::text, name, expression, effect, enabled, version, created_at, updated_at"

_SUBJECTS = ("role", "user_id", "account_id")


def present_limit(row: Row[Any]) -> dict[str, Any]:
    """The limit as the API shows it: amounts as decimal strings of its currency."""
    hours = None
    if row.time_zone is not None:
        hours = {"opens": _clock(row.opens_at), "closes": _clock(row.closes_at), "time_zone": row.time_zone}
    return {
        "id": row.id,
        "scope": row.scope,
        "role": row.role,
        "user_id": row.user_id,
        "account_id": row.account_id,
        "currency": row.currency,
        "kind": row.kind,
        "amount": None if row.amount is None else format_amount(row.amount, row.currency),
        "count": row.payments,
        "window": row.span,
        "counterparties": row.counterparties,
        "hours": hours,
        "version": row.version,
        "created_at": timestamp(row.created_at),
        "updated_at": timestamp(row.updated_at),
    }


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def present_rule(row: Row[Any]) -> dict[str, Any]:
    """The rule as the API shows it."""
    return {
        "id": row.id,
        "name": row.name,
        "expression": row.expression,
        "effect": row.effect,
        "enabled": row.enabled,
        "version": row.version,
        "created_at": timestamp(row.created_at),
        "updated_at": timestamp(row.updated_at),
    }


def limits(filters: Mapping[str, str], after: str | None, limit: int) -> Sequence[Row[Any]]:
    """Limits, oldest first, from behind the id `after`; one more than `limit` when more follow. `filters` are columns and values."""
    conditions = "".join(f" AND {name} = CAST(:{name} AS {'uuid' if name.endswith('_id') else 'text'})" for name in filters)
    return _page(f"SELECT {_LIMIT} FROM limits WHERE true {conditions}", filters, after, limit)


def rules(after: str | None, limit: int) -> Sequence[Row[Any]]:
    """Rules, oldest first, which is the order in which they are asked; as `limits`."""
    return _page(f"SELECT {_RULE} FROM rules WHERE true", {}, after, limit)


def _page(statement: str, filters: Mapping[str, str], after: str | None, limit: int) -> Sequence[Row[Any]]:
    behind = "AND id > CAST(:after AS uuid)" if after else ""
    with reader() as session:
        parameters = {**filters, "after": after, "limit": limit + 1}
        return session.execute(text(f"{statement} {behind} ORDER BY id LIMIT :limit"), parameters).all()


def limit(limit_id: str) -> Row[Any]:
    """A limit. Raises NotFound."""
    with reader() as session:
        return _one(session, f"SELECT {_LIMIT} FROM limits", limit_id)


def rule(rule_id: str) -> Row[Any]:
    """A rule. Raises NotFound."""
    with reader() as session:
        return _one(session, f"SELECT {_RULE} FROM rules", rule_id)


def _one(session: Session, statement: str, row_id: str, *, lock: bool = False) -> Row[Any]:
    row = session.execute(
        text(f"{statement} WHERE id = CAST(:id AS uuid) {'FOR NO KEY UPDATE' if lock else ''}"), {"id": row_id}
    ).one_or_none()
    if row is None:
        raise NotFound
    return row


def etag(row: Row[Any]) -> str:
    """Changes each time it is set."""
    return str(row.version)


def set_limit(body: Mapping[str, Any], origin: Origin) -> Row[Any]:
    """Make a limit of a loaded SetLimit. It counts for what is decided from its commit on, with what was paid before.

    Raises Unprocessable where the user or the account is not there or the account holds another currency, and TooManyLimits.
    """
    with unit_of_work() as session:
        _check_subject(session, body)
        subject = next(name for name in _SUBJECTS if name in body)
        there = text(f"SELECT count(*) FROM limits WHERE {subject} = CAST(:id AS {'text' if subject == 'role' else 'uuid'})")
        if session.execute(there, {"id": body[subject]}).scalar_one() >= _MOST_LIMITS:
            raise TooManyLimits(f"There are {_MOST_LIMITS} for it already.")
        event = LimitSet(
            scope=subject.removesuffix("_id"),
            **{name: body.get(name) for name in _SUBJECTS},
            currency=body["currency"],
            kind=body["kind"],
            **_said(body),
        )
        limit_id = new_id()
        _write_limit(session, limit_id, event)
        events.append(session, limit_id, 1, event, origin)
        audit.record(session, "limit", limit_id, "limit.set", origin, _told(event))
        return _one(session, f"SELECT {_LIMIT} FROM limits", limit_id)


def _check_subject(session: Session, body: Mapping[str, Any]) -> None:
    if "user_id" in body:
        user = text("SELECT FROM users WHERE id = CAST(:id AS uuid) AND status <> 'deleted'")
        if session.execute(user, {"id": body["user_id"]}).one_or_none() is None:
            raise Unprocessable.at("/user_id", "There is no such user.")
    if "account_id" in body:
        account = text("SELECT currency FROM accounts WHERE id = CAST(:id AS uuid) AND kind = 'customer'")
        currency = session.execute(account, {"id": body["account_id"]}).scalar_one_or_none()
        if currency is None:
            raise Unprocessable.at("/account_id", "There is no such account.")
        if currency != body["currency"]:
            raise Unprocessable.at("/currency", f"The account holds {currency}.")


def _said(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the kinds say, in the shape of the event."""
    hours = body.get("hours", {})
    return {
        **{name: body.get(name) for name in ("amount", "count", "window", "counterparties")},
        "opens_at": hours.get("opens"),
        "closes_at": hours.get("closes"),
        "time_zone": hours.get("time_zone"),
    }


_WRITE_LIMIT = text(
    """
    INSERT INTO limits AS l (id, scope, role, user_id, account_id, currency, kind, amount, payments, span, counterparties, opens_at,
                             closes_at, time_zone, version)
    VALUES (CAST(:id AS uuid), :scope, :role, CAST(:user_id AS uuid), CAST(:account_id AS uuid), :currency, :kind, :amount, :count,
            :window, CAST(:counterparties AS text[]), :opens_at, :closes_at, :time_zone, 1)
    ON CONFLICT (id) DO UPDATE
       SET amount = EXCLUDED.amount, payments = EXCLUDED.payments, span = EXCLUDED.span, counterparties = EXCLUDED.counterparties,
           opens_at = EXCLUDED.opens_at, closes_at = EXCLUDED.closes_at, time_zone = EXCLUDED.time_zone,
           version = l.version + 1, updated_at = now()
    """
)


def _write_limit(session: Session, limit_id: str, event: LimitSet) -> None:
    session.execute(_WRITE_LIMIT, {"id": limit_id, **asdict(event)})


def _told(event: Happened) -> dict[str, Any]:
    """What the event says, for the audit row."""
    return {name: value for name, value in asdict(event).items() if value is not None}


def change_limit(limit_id: str, body: dict[str, Any], origin: Origin) -> Row[Any]:
    """Change what a loaded ChangeLimit names, if the request's If-Match allows it.

    Raises NotFound, PreconditionFailed, and Unprocessable for what a limit of its kind does not say.
    """
    with unit_of_work() as session:
        row = _one(session, f"SELECT {_LIMIT} FROM limits", limit_id, lock=True)
        check_if_match(etag(row))
        kind = LimitKind(row.kind)
        was = _set(row)
        said = {name: value for name, value in _said(body).items() if value is not None}
        try:
            check_said(kind, {*body, *KINDS[kind]})
            resolve(said, row.currency, kind)
        except ValidationError as error:
            raise Unprocessable.at(f"/{error.field_name}", str(error.messages[0])) from None
        event = replace(was, **said)
        if event == was:
            return row
        _write_limit(session, limit_id, event)
        events.append(session, limit_id, row.version + 1, event, origin)
        audit.record(session, "limit", limit_id, "limit.changed", origin, _told(event))
        return _one(session, f"SELECT {_LIMIT} FROM limits", limit_id)


def _set(row: Row[Any]) -> LimitSet:
    """What the row says, as its last event did."""
    return LimitSet(
        scope=row.scope,
        role=row.role,
        user_id=row.user_id,
        account_id=row.account_id,
        currency=row.currency,
        kind=row.kind,
        amount=row.amount,
        count=row.payments,
        window=row.span,
        counterparties=row.counterparties,
        opens_at=row.opens_at,
        closes_at=row.closes_at,
        time_zone=row.time_zone,
    )


def remove_limit(limit_id: str, origin: Origin) -> None:
    """Remove a limit, if the request's If-Match allows it. Raises NotFound and PreconditionFailed."""
    _remove(limit_id, "limit", LimitRemoved(), origin)


def _remove(row_id: str, entity: str, event: Happened, origin: Origin) -> None:
    with unit_of_work() as session:
        row = _one(session, f"SELECT id, version FROM {entity}s", row_id, lock=True)
        check_if_match(etag(row))
        session.execute(text(f"DELETE FROM {entity}s WHERE id = CAST(:id AS uuid)"), {"id": row_id})
        events.append(session, row_id, row.version + 1, event, origin)
        audit.record(session, entity, row_id, f"{entity}.removed", origin)


_WRITE_RULE = text(
    """
    INSERT INTO rules AS r (id, name, expression, effect, enabled, version)
    VALUES (CAST(:id AS uuid), :name, :expression, :effect, :enabled, 1)
    ON CONFLICT (id) DO UPDATE
       SET name = EXCLUDED.name, expression = EXCLUDED.expression, effect = EXCLUDED.effect, enabled = EXCLUDED.enabled,
           version = r.version + 1, updated_at = now()
    """
)


def set_rule(body: Mapping[str, Any], origin: Origin) -> Row[Any]:
    """Make a rule of a loaded SetRule, for what is decided from its commit on. Raises TooManyRules."""
    with unit_of_work() as session:
        if session.execute(text("SELECT count(*) FROM rules")).scalar_one() >= _MOST_RULES:
            raise TooManyRules(f"There are {_MOST_RULES} already.")
        rule_id, event = new_id(), RuleSet(**body)
        session.execute(_WRITE_RULE, {"id": rule_id, **body})
        events.append(session, rule_id, 1, event, origin)
        audit.record(session, "rule", rule_id, "rule.set", origin, _told(event))
        return _one(session, f"SELECT {_RULE} FROM rules", rule_id)


def change_rule(rule_id: str, body: Mapping[str, Any], origin: Origin) -> Row[Any]:
    """Change what a loaded ChangeRule names, if the request's If-Match allows it. Raises NotFound and PreconditionFailed."""
    with unit_of_work() as session:
        row = _one(session, f"SELECT {_RULE} FROM rules", rule_id, lock=True)
        check_if_match(etag(row))
        was = {name: getattr(row, name) for name in RuleSet.__slots__}
        now = {**was, **body}
        if now == was:
            return row
        event = RuleSet(**now)
        session.execute(_WRITE_RULE, {"id": rule_id, **now})
        events.append(session, rule_id, row.version + 1, event, origin)
        audit.record(session, "rule", rule_id, "rule.changed", origin, _told(event))
        return _one(session, f"SELECT {_RULE} FROM rules", rule_id)


def remove_rule(rule_id: str, origin: Origin) -> None:
    """Remove a rule, if the request's If-Match allows it. Raises NotFound and PreconditionFailed."""
    _remove(rule_id, "rule", RuleRemoved(), origin)
