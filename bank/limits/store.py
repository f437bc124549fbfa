"""What applies to the payments of one decision, and what was used before: a few statements, whatever the batch size."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from bank.events.types import TransactionSubmitted
from bank.ledger.decide import Command
from bank.ledger.store import States
from bank.limits import cel
from bank.limits.checks import Condition, Effect, Limit, LimitKind, Payer, Payment, Policy, Rule, Scope, Used

# All rules that are enabled, in the order in which they were made; and for what there are limits, roles, users or accounts.
_RULES = "SELECT id::text, version, effect, expression FROM rules WHERE enabled ORDER BY id"
_ANY_LIMIT = """
    SELECT EXISTS (SELECT FROM limits WHERE role IS NOT NULL), EXISTS (SELECT FROM limits WHERE user_id IS NOT NULL),
           EXISTS (SELECT FROM limits WHERE account_id IS NOT NULL)
"""

# Who asked is nobody where the operator brings in what another bank has posted: that is no payment any more. Nor is what names another
# currency than its account holds: the ledger refuses it, and by its currency the account's own limits would not be found.
_PAYMENTS = """
    SELECT t.id::text, t.from_account_id::text, t.currency, t.type, t.to_user_id::text, t.description, t.reference, t.metadata,
           u.id::text, u.username, u.role, u.created_at
      FROM transactions t JOIN users u ON u.id = t.from_user_id
      JOIN balances b ON b.account_id = t.from_account_id AND b.currency = t.currency
     WHERE t.id = ANY(%s::uuid[]) AND t.actor_id IS NOT NULL AND t.reverses_id IS NULL AND t.captures_id IS NULL AND t.voids_id IS NULL
"""

_LIMITS = """
    SELECT id::text, version, scope, kind, amount, payments, span, counterparties, opens_at, closes_at, time_zone,
           COALESCE(role, user_id::text, account_id::text), currency
      FROM limits WHERE role = ANY(%s::text[]) OR user_id = ANY(%s::uuid[]) OR account_id = ANY(%s::uuid[]) ORDER BY id
"""

# The payments of a user's accounts in a currency count together, closed ones' too.
_TOGETHER = """
    SELECT p.account_id::text, string_agg(b.account_id::text, ',' ORDER BY b.account_id)
      FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) AS p (account_id, user_id, currency)
      JOIN balances b ON b.user_id = p.user_id AND b.currency = p.currency
     GROUP BY p.account_id
"""


_PAYERS = """
    SELECT b.account_id::text, b.currency, u.id::text, u.username, u.role, u.created_at
      FROM balances b JOIN users u ON u.id = b.user_id WHERE b.account_id = ANY(%s::uuid[])
"""


@dataclass(frozen=True, slots=True)
class Applicable:
    """What applies to some payments, before it is known what was used: all as `Policy` has it."""

    payments: Mapping[str, Payment]
    rules: Sequence[Rule]
    limits: Mapping[str, Sequence[Limit]]
    together: Mapping[str, Sequence[str]]

    @property
    def accounts(self) -> set[str]:
        """The accounts whose states and locks are needed beside those of the commands."""
        return {each for accounts in self.together.values() for each in accounts}


class AccountsOpened(RuntimeError):
    """While the locks were waited for, a user opened an account whose payments count together with those that are to be decided."""


@dataclass(frozen=True, slots=True)
class _Paying:
    """An account that pays, by its user."""

    account_id: str
    payer: Payer
    currency: str


def applicable(connection: Connection, commands: Sequence[Command]) -> Applicable | None:
    """What applies to these pending transactions, as it is committed now; None where nobody has set a limit or a rule."""
    rules, scopes = _in_force(connection)
    if not (rules or scopes):
        return None
    payments, paying = {}, {}
    for row in connection.exec_driver_sql(_PAYMENTS, (_array(command.transaction_id for command in commands),)).fetchall():
        payer = Payer(*row[8:12])
        payments[row[0]] = Payment(row[3], payer, *row[4:8])
        paying[row[1]] = _Paying(row[1], payer, row[2])
    return _applicable(connection, payments, rules, scopes, list(paying.values()))


def applicable_to(connection: Connection, events: Mapping[str, TransactionSubmitted]) -> Applicable | None:
    """The same for transactions that are not there, of which these events would tell, each by the id that its command bears."""
    rules, scopes = _in_force(connection)
    if not (rules or scopes):
        return None
    asked = {key: event for key, event in events.items() if not (event.reverses_id or event.captures_id or event.voids_id)}
    accounts = {event.from_account_id for event in asked.values() if event.from_account_id is not None}
    payers = {(row[0], row[1]): Payer(*row[2:]) for row in connection.exec_driver_sql(_PAYERS, (_array(accounts),))}
    payments, paying = {}, {}
    for key, event in asked.items():
        account_id = event.from_account_id
        if account_id is not None and (payer := payers.get((account_id, event.currency))):
            payments[key] = Payment(event.type, payer, event.to_user_id, event.description, event.reference, event.metadata)
            paying[account_id] = _Paying(account_id, payer, event.currency)
    return _applicable(connection, payments, rules, scopes, list(paying.values()))


_OPENED = """
    SELECT EXISTS (SELECT FROM balances own JOIN balances b ON b.user_id = own.user_id AND b.currency = own.currency
                    WHERE own.account_id = ANY(%s::uuid[]) AND b.account_id <> ALL(%s::uuid[]))
"""


def check_locked(connection: Connection, found: Applicable) -> None:
    """Raise AccountsOpened where there are more accounts that count together than `found` knows of, which must all be locked: one that
    was opened, and paid from, before that. Who pays from one that is opened from now on waits for these locks."""
    parameters = (_array(found.together), _array(found.accounts))
    if found.together and connection.exec_driver_sql(_OPENED, parameters).scalar_one():
        raise AccountsOpened("An account that counts together with others was opened before these were locked.")


def _in_force(connection: Connection) -> tuple[list[Rule], set[Scope]]:
    """All rules, and the scopes for which there is any limit."""
    rules = [_rule(row) for row in connection.exec_driver_sql(_RULES)]
    there = connection.exec_driver_sql(_ANY_LIMIT).one()
    return rules, {scope for scope, found in zip((Scope.ROLE, Scope.USER, Scope.ACCOUNT), there, strict=True) if found}


def _applicable(
    connection: Connection, payments: Mapping[str, Payment], rules: Sequence[Rule], scopes: set[Scope], paying: Sequence[_Paying]
) -> Applicable:
    """Look up the limits of the accounts that pay, and what counts together for them."""
    limits: dict[str, Sequence[Limit]] = {}
    together: dict[str, Sequence[str]] = {}
    if scopes and paying:
        found: defaultdict[tuple[str, str], list[Limit]] = defaultdict(list)
        subjects = (
            _array({each.payer.role for each in paying} if Scope.ROLE in scopes else ()),
            _array({each.payer.id for each in paying} if Scope.USER in scopes else ()),
            _array([each.account_id for each in paying] if Scope.ACCOUNT in scopes else ()),
        )
        for row in connection.exec_driver_sql(_LIMITS, subjects):
            found[row[11], row[12]].append(_limit(row))
        for each in paying:
            subjects_of = (each.payer.role, each.payer.id, each.account_id)
            if own := [limit for subject in subjects_of for limit in found.get((subject, each.currency), ())]:
                limits[each.account_id] = own
    shared = [each for each in paying if any(limit.counts_together for limit in limits.get(each.account_id, ()))]
    if shared:
        parameters = (
            _array(each.account_id for each in shared),
            _array(each.payer.id for each in shared),
            _array(each.currency for each in shared),
        )
        for account_id, others in connection.exec_driver_sql(_TOGETHER, parameters).fetchall():
            together[account_id] = others.split(",")
    return Applicable(payments, rules, limits, together)


def _rule(row: Sequence[Any]) -> Rule:
    rule_id, version, effect, expression = row
    condition: Condition
    try:
        condition = cel.parse(expression)
    except cel.InvalidExpression as error:
        # An error here would stop every lane. It comes to no answer, as others do, and is taken to be true.
        condition = cel.Unreadable(str(error))
    return Rule(rule_id, version, Effect(effect), condition)


def _limit(row: Sequence[Any]) -> Limit:
    limit_id, version, scope, kind, amount, count, span, counterparties, opens_at, closes_at, time_zone, *_ = row
    return Limit(
        limit_id,
        version,
        Scope(scope),
        LimitKind(kind),
        amount,
        count,
        span,
        frozenset(counterparties or ()),
        opens_at,
        closes_at,
        time_zone,
    )


# An account's entries are in the order of their times, so a window is a span of versions. What was added up before is moved on by
# what has left the window since and what has come into it; where nothing was, the whole window is added up. Each entry is
# looked at twice in its life, then, however many there are and however often it is asked; of few entries nothing is written.
# A month may begin earlier than it did when it was asked before (March 30th and 31st both have the end of February a month before
# them), or the clock be set back: where what had left the window is in it again, it is added up anew.
_USED = """
WITH asked AS (
    SELECT a.account_id, a.version, a.span, %(now)s::timestamptz - w.width AS since
      FROM unnest(%(accounts)s::uuid[], %(versions)s::bigint[], %(spans)s::text[]) AS a (account_id, version, span)
      JOIN (VALUES ('hour', interval '1 hour'), ('day', '1 day'), ('week', '7 days'), ('month', '1 month')) AS w (span, width)
        ON w.span = a.span
), began AS MATERIALIZED (
    SELECT a.account_id, a.span, a.version, u.first_version, u.last_version, COALESCE(u.amount, 0) AS amount,
           COALESCE(u.count, 0) AS count,
           CASE WHEN u.account_id IS NULL
                THEN COALESCE((SELECT e.version FROM entries e WHERE e.account_id = a.account_id AND e.posted_at <= a.since
                                ORDER BY e.version DESC LIMIT 1), 0)
                ELSE COALESCE((SELECT e.version - 1 FROM entries e
                                WHERE e.account_id = a.account_id AND e.version > u.first_version AND e.posted_at > a.since
                                ORDER BY e.version LIMIT 1), a.version) END AS begin
      FROM asked a
      LEFT JOIN usages u ON u.account_id = a.account_id AND u.span = a.span AND NOT EXISTS (
          SELECT FROM entries e WHERE e.account_id = u.account_id AND e.version = u.first_version AND e.posted_at > a.since)
), moved AS MATERIALIZED (
    SELECT b.account_id, b.span, b.begin, b.version, b.amount + COALESCE(m.amount, 0)::bigint AS amount,
           b.count + COALESCE(m.count, 0)::int AS count, m.seen
      FROM began b CROSS JOIN LATERAL (
          SELECT -sum(e.amount * side.sign) AS amount, sum(side.sign) AS count, count(*) AS seen
            FROM (VALUES (-1, b.first_version, least(b.begin, b.last_version)),
                         (1, greatest(b.last_version, b.begin), b.version)) AS side (sign, low, high)
            JOIN entries e ON e.account_id = b.account_id AND e.version > side.low AND e.version <= side.high AND e.amount < 0
            JOIN transactions t ON t.id = e.transaction_id AND t.reverses_id IS NULL AND t.actor_id IS NOT NULL
      ) m
), kept AS (
    INSERT INTO usages AS u (account_id, span, first_version, last_version, amount, count)
    SELECT account_id, span, begin, version, amount, count FROM moved WHERE seen > %(many)s
    ON CONFLICT (account_id, span) DO UPDATE
       SET first_version = EXCLUDED.first_version, last_version = EXCLUDED.last_version, amount = EXCLUDED.amount, count = EXCLUDED.count
)
SELECT account_id::text, span, amount, count FROM moved
"""

# What is added up anew by each batch is at most this; a page of the table holds about as many entries.
_MANY = 64

_OPEN_HOLDS = """
    SELECT from_account_id::text, count(*) FROM transactions WHERE from_account_id = ANY(%s::uuid[]) AND held_amount > 0 GROUP BY 1
"""


def policy(connection: Connection, found: Applicable, states: States, *, keep: bool = True) -> Policy:
    """What applies, with what was used: the states must hold the accounts that count together too, locked until the decision is
    written. For a decision that is not written nothing needs to be locked, and nothing that was added up is to be kept."""
    used: defaultdict[str, dict[str, Used]] = defaultdict(dict)
    asked = []
    for account, window in sorted(_windows(found)):
        used[account][window] = Used()
        # Nothing was paid from an account without entries.
        if states.accounts[account].version:
            asked.append((account, window))
    open_holds: dict[str, int] = {}
    if asked:
        parameters = {
            "now": states.posted_at,
            "accounts": _array(account for account, _ in asked),
            "versions": _array(str(states.accounts[account].version) for account, _ in asked),
            "spans": _array(window for _, window in asked),
            "many": _MANY if keep else None,
        }
        for account, span, amount, count in connection.exec_driver_sql(_USED, parameters).fetchall():
            used[account][span] = Used(amount, count)
    if holding := [account for account in used if states.accounts[account].held]:
        open_holds = {row[0]: row[1] for row in connection.exec_driver_sql(_OPEN_HOLDS, (_array(holding),))}
    return Policy(
        now=states.posted_at,
        payments=found.payments,
        limits=found.limits,
        together=found.together,
        rules=found.rules,
        values=cel.context,
        unanswered=cel.NotEvaluated,
        used=used,
        open_holds=open_holds,
    )


def _windows(found: Applicable) -> set[tuple[str, str]]:
    """Of which accounts what was used must be known, and in which windows."""
    return {
        (each, limit.window)
        for account, limits in found.limits.items()
        for limit in limits
        if limit.window is not None
        for each in (found.together[account] if limit.counts_together else (account,))
    }


def _array(values: Iterable[str]) -> str:
    """A PostgreSQL array literal, as `bank.ledger.store` has them: of ids, numbers and words, none of which needs quoting."""
    return "{" + ",".join(values) + "}"
