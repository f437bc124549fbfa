"""What reading one account costs with many entries and with few: the calls of the services, in this process."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from bank.accounts import service as accounts
from bank.balances import service as balances
from bank.transactions import service as transactions
from bank.transactions.store import HistoryQuery
from tests.filling import CLOSINGS, fill
from tests.processes import query

FEW, MANY = 10_000, 1_000_000

# How the entries of an account lie: over two years as they came; all on one day; over two years, but learned within an
# hour, as from another bank's books, but for one a month, which was learned a day later. Of those that came one by one every
# thousandth was backdated, by up to a month.
SHAPES = ("spread", "one_day", "imported")

# So many calls of each kind, or as many as this time allows.
_CALLS, _WARM_UP, _PATIENCE_SECONDS = 200, 10, 6.0
_LIMIT = 50

_FILL = (
    """CREATE TABLE filled AS
       SELECT md5(shape || size)::uuid AS account_id, shape, size, began, lasted FROM (
           SELECT shape, size, CASE shape WHEN 'one_day' THEN day ELSE day - interval '730 days' END AS began,
                  CASE shape WHEN 'one_day' THEN interval '1 day' ELSE interval '730 days' END AS lasted
             FROM unnest(%(shapes)s) shape CROSS JOIN unnest(%(sizes)s) size
            CROSS JOIN date_trunc('day', now() - interval '1 day') AS day) f""",
    """INSERT INTO accounts (id, user_id, currency, kind, is_default, version)
       SELECT account_id, (SELECT id FROM users), 'USD', 'customer', false, 1 FROM filled""",
    """INSERT INTO entries (account_id, version, transaction_id, currency, amount, balance, effective_at, posted_at)
       SELECT account_id, version, md5(shape || size || '-' || version)::uuid, 'USD', amount, balance,
              CASE WHEN shape <> 'imported' AND version %% 1000 = 0
                   THEN came - random() * least(came - began, interval '30 days')
                   WHEN shape = 'imported' AND version <= 24 THEN began + lasted / 24 * (version - 1) ELSE came END,
              CASE WHEN shape = 'imported' AND version <= 24 THEN began + lasted / 24 * (version - 1) + interval '1 day'
                   WHEN shape = 'imported' THEN began + lasted + came_after / lasted_s * interval '1 hour'
                         ELSE came + interval '5 milliseconds' END
         FROM (SELECT f.*, version, 1 + version %% 7 AS amount,
                      sum(1 + version %% 7) OVER (PARTITION BY account_id ORDER BY version) AS balance,
                      EXTRACT(epoch FROM lasted) AS lasted_s,
                      EXTRACT(epoch FROM lasted) * (version - 1) / size AS came_after,
                      began + lasted * ((version - 1)::float / size) AS came
                 FROM filled f CROSS JOIN LATERAL generate_series(1, size) version) e""",
    CLOSINGS,
    """INSERT INTO balances (account_id, user_id, currency, amount, version)
       SELECT e.account_id, a.user_id, 'USD', e.balance, e.version
         FROM (SELECT DISTINCT ON (account_id) * FROM entries ORDER BY account_id, version DESC) e JOIN accounts a ON a.id = account_id""",
    # History is the same whatever day an entry counts from.
    """INSERT INTO transactions (id, seq, lane, type, status, to_user_id, to_account_id, amount, currency, to_amount,
                                 to_currency, version, effective_at, created_at, completed_at)
       SELECT e.transaction_id, row_number() OVER (ORDER BY e.version), 0, 'credit', 'completed', a.user_id, a.id, e.amount, 'USD',
              e.amount, 'USD', 2, e.effective_at, e.effective_at, e.posted_at
         FROM filled JOIN accounts a ON a.id = account_id JOIN entries e USING (account_id) WHERE shape = 'spread'""",
    "DROP TABLE filled",
)


def fill_accounts(environ: Mapping[str, str]) -> None:
    """For each shape an account with few entries and one with many; transactions for those whose entries are spread."""
    fill(environ, _FILL, shapes=list(SHAPES), sizes=[FEW, MANY])


def calls(environ: Mapping[str, str], shape: str) -> Iterator[tuple[str, list[float]]]:
    """The median milliseconds of each kind of call, on the account with few entries and on that with many."""
    few, many = (_calls_of(environ, shape, size) for size in (FEW, MANY))
    for kind in few:
        yield kind, _milliseconds(few[kind], many[kind])


def _calls_of(environ: Mapping[str, str], shape: str, size: int) -> dict[str, Callable[[], object]]:
    [(account, first, last)] = query(
        environ,
        """SELECT account_id::text, min(effective_at), max(effective_at) FROM entries
            WHERE account_id = md5(%s || %s)::uuid GROUP BY 1""",
        shape,
        str(size),
    )
    held = balances.holder(account, None)
    draw = random.Random(size)
    now = datetime.now(UTC)

    def moment() -> datetime:
        return first + draw.random() * (last - first)

    def known() -> object:
        at = moment()
        return balances.at_time(account, at, at + draw.random() * (now - at))

    def year() -> object:
        since = last - timedelta(days=draw.randint(365, 400))
        return balances.historical(held, since, since + timedelta(days=365), "day")

    def hours() -> object:
        since = moment().replace(hour=0, minute=0, second=0, microsecond=0)
        return balances.historical(held, since, since + timedelta(days=1), "hour")

    measured: dict[str, Callable[[], object]] = {
        "at_time": lambda: balances.at_time(account, moment(), None),
        "at_time_as_known": known,
        "historical_days": year,
        "historical_hours": hours,
    }
    if shape == "spread":
        seqs = [seq for (seq,) in query(environ, "SELECT seq FROM transactions WHERE to_account_id = %s::uuid ORDER BY seq", account)]
        for depth, before in (("first", None), ("middle", size // 2), ("end", _LIMIT)):
            seq = None if before is None else seqs[before]
            measured[f"history_{depth}"] = lambda seq=seq: transactions.history(
                HistoryQuery(limit=_LIMIT, account_id=account, before=seq), None
            )
            measured[f"entries_{depth}"] = lambda before=before: accounts.entries(account, before, _LIMIT)
    return measured


def _milliseconds(*calls: Callable[[], object]) -> list[float]:
    """The median of each, in turn, so that whatever else the machine does meets all of them; some warm up before."""
    taken: list[list[float]] = [[] for _ in calls]
    give_up = time.perf_counter() + _PATIENCE_SECONDS
    while len(taken[0]) < _WARM_UP + _CALLS and (time.perf_counter() < give_up or len(taken[0]) < 2 * _WARM_UP):
        for call, times in zip(calls, taken, strict=True):
            started = time.perf_counter()
            call()
            times.append((time.perf_counter() - started) * 1000)
    return [statistics.median(times[_WARM_UP:]) for times in taken]
