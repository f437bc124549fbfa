"""What applies to the payments of one decision, and what was used before: a few statements, whatever the batch size."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from bank.events.types import TransactionSubmitted
from bank.ledger.store import Pending, States
from bank.limits import cel
from bank.limits.checks import OF_DETAILS, Condition, Effect, Limit, LimitKind, Payer, Payment, Policy, Rule, Scope, Used

# All rules that are enabled, in the order in which they were made; and for what there are limits, roles, users or accounts.
_RULES = "SELECT id::text, version, effect, expression FROM rules WHERE enabled ORDER BY id"
_ANY_LIMIT = """
    SELECT EXISTS (SELECT FROM limits WHERE role IS NOT NULL), EXISTS (SELECT FROM limits WHERE user_id IS NOT NULL),
           EXISTS (SELECT FROM limits WHERE account_id IS NOT NULL)
"""

# Who pays and what they have, the closed accounts too: what they pay in a currency counts together.
_PAYERS = """
    SELECT u.id::text, u.username, u.role, u.created_at, b.account_id::text, b.currency
      FROM users u JOIN balances b ON b.user_id = u.id WHERE u.id = ANY(%s::uuid[]) ORDER BY b.account_id
"""

_DETAILS = "SELECT id::text, to_user_id::text, description, reference, metadata FROM transactions WHERE id = ANY(%s::uuid[])"

_LIMITS = """
    SELECT id::text, version, scope, kind, amount, payments, span, counterparties, opens_at, closes_at, time_zone,
           COALESCE(role, user_id::text, account_id::text), currency
      FROM limits WHERE role = ANY(%s::text[]) OR user_id = ANY(%s::uuid[]) OR account_id = ANY(%s::uuid[]) ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Applicable:
    """What applies to some payments, before it is known what was used: all as `Policy` has it."""

    payments: Mapping[str, Payment]
    rules: Sequence[Rule]
    limits: Mapping[str, Sequence[Limit]]
    together: Mapping[str, Sequence[str]]
    # Whose payments count together, and how many accounts they have.
    users: Set[str] = frozenset()
    opened: int = 0

    @property
    def accounts(self) -> set[str]:
        """The accounts whose states and locks are needed beside those of the commands."""
        return {each for accounts in self.together.values() for each in accounts}


class AccountsOpened(RuntimeError):
    """While the locks were waited for, a user opened an account whose payments count together with those that are to be decided."""


Details = tuple[str | None, str | None, str | None, Mapping[str, str] | None]
"""The user that is paid, the description, the reference and the metadata, as `Payment` has them."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A payment that a customer asked for."""

    transaction_id: str
    type: str
    payer_id: str
    account_id: str
    currency: str


def applicable(connection: Connection, pending: Sequence[Pending]) -> Applicable | None:
    """What applies to these pending transactions, as it is committed now; None where nobody has set a limit or a rule."""

    def details() -> dict[str, Details]:
        rows = connection.exec_driver_sql(_DETAILS, (_array(each.transaction_id for each in asked),))
        return {row[0]: tuple(row[1:]) for row in rows}

    asked = [
        _Asked(each.command.transaction_id, each.type, each.payer_id, each.command.from_account_id, each.command.currency)
        for each in pending
        if each.payer_id is not None
    ]
    return _applicable(connection, asked, details)


def applicable_to(connection: Connection, events: Mapping[str, TransactionSubmitted]) -> Applicable | None:
    """The same for transactions that are not there, of which these events would tell, each by the id that its command bears."""

    def details() -> dict[str, Details]:
        return {key: (event.to_user_id, event.description, event.reference, event.metadata) for key, event in events.items()}

    asked = [
        _Asked(key, event.type, event.from_user_id, event.from_account_id, event.currency)
        for key, event in events.items()
        if event.from_user_id and event.from_account_id and not (event.reverses_id or event.captures_id or event.voids_id)
    ]
    return _applicable(connection, asked, details)


_OPENED = "SELECT count(*) FROM balances WHERE user_id = ANY(%s::uuid[])"


def check_locked(connection: Connection, found: Applicable) -> None:
    """Raise AccountsOpened where users whose payments count together have more accounts than `found` knows of, which must all be
    locked: one that was opened, and paid from, before that. Who pays from one that is opened from now on waits for these locks."""
    if found.users and connection.exec_driver_sql(_OPENED, (_array(found.users),)).scalar_one() != found.opened:
        raise AccountsOpened("An account that counts together with others was opened before these were locked.")


def _in_force(connection: Connection) -> tuple[list[Rule], set[Scope]]:
    """All rules, and the scopes for which there is any limit."""
    rules = [_rule(row) for row in connection.exec_driver_sql(_RULES)]
    there = connection.exec_driver_sql(_ANY_LIMIT).one()
    return rules, {scope for scope, found in zip((Scope.ROLE, Scope.USER, Scope.ACCOUNT), there, strict=True) if found}


def _applicable(connection: Connection, asked: Sequence[_Asked], details: Callable[[], dict[str, Details]]) -> Applicable | None:
    rules, scopes = _in_force(connection)
    if not (rules or scopes):
        return None
    payers: dict[str, Payer] = {}
    accounts: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    rows = connection.exec_driver_sql(_PAYERS, (_array({each.payer_id for each in asked}),)).fetchall()
    for user_id, username, role, created_at, account_id, currency in rows:
        if user_id not in payers:
            payers[user_id] = Payer(user_id, username, role, created_at)
        accounts[user_id, currency].append(account_id)
        counts[user_id] += 1
    # What names another currency than its account holds the ledger refuses, and by it the account's own limits would not be found.
    asked = [each for each in asked if each.account_id in accounts[each.payer_id, each.currency]]
    limits = _limits(connection, scopes, payers, asked)
    shared = {
        each.account_id: each
        for each in asked
        if each.account_id in limits and any(limit.counts_together for limit in limits[each.account_id])
    }
    users = {each.payer_id for each in shared.values()}
    told: Mapping[str, Details] = {}
    # Most limits and rules do without, and what is not read need not be fetched.
    if any(rule.condition.fields & OF_DETAILS for rule in rules) or any(
        limit.kind is LimitKind.COUNTERPARTIES for own in limits.values() for limit in own
    ):
        told = details()
    return Applicable(
        {each.transaction_id: Payment(each.type, payers[each.payer_id], *told.get(each.transaction_id, ())) for each in asked},
        rules,
        limits,
        {account_id: accounts[each.payer_id, each.currency] for account_id, each in shared.items()},
        users,
        sum(counts[user_id] for user_id in users),
    )


def _limits(connection: Connection, scopes: Set[Scope], payers: Mapping[str, Payer], asked: Sequence[_Asked]) -> dict[str, Sequence[Limit]]:
    """The limits of each account that pays, where it has any."""
    if not (scopes and asked):
        return {}
    subjects = (
        _array({payer.role for payer in payers.values()} if Scope.ROLE in scopes else ()),
        _array(payers if Scope.USER in scopes else ()),
        _array({each.account_id for each in asked} if Scope.ACCOUNT in scopes else ()),
    )
    found: defaultdict[tuple[str, str], list[Limit]] = defaultdict(list)
    for row in connection.exec_driver_sql(_LIMITS, subjects):
        found[row[11], row[12]].append(_limit(row))
    limits: dict[str, Sequence[Limit]] = {}
    for account_id, payer_id, currency in {(each.account_id, each.payer_id, each.currency) for each in asked}:
        subjects_of = (payers[payer_id].role, payer_id, account_id)
        if own := [limit for subject in subjects_of for limit in found.get((subject, currency), ())]:
            limits[account_id] = own
    return limits


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
        values=cel.Values(),
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
