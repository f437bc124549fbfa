"""How the cost of posting grows: with worker processes, with lanes, with accounts, and with what has been booked before.

Prints a JSON line a measure, each one run: what is asked is the shape, and docs/scaling.md says what was seen on which machine.
Run by `make scaling`, on a machine that does nothing else; the last sizes take minutes and some gigabytes of disk.
"""

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import psutil

from bank import create_app, embedded
from bank.balances import service as balances
from bank.config import Config
from bank.transactions import service as transactions
from bank.transactions.store import HistoryQuery
from tests.bench.__main__ import ACCOUNTS, fill_queue, ring_all, servers, wait_until_posted
from tests.filling import CLOSINGS, fill
from tests.processes import Bank, fresh_database, query

WORKERS = (1, 2, 3, 4)
LANES = (1, 2, 4, 8, 16)
ENTRIES = (10_000, 100_000, 1_000_000, 10_000_000)
MANY_ACCOUNTS = (1_000, 10_000, 100_000, 1_000_000)
MEASURES = ("bytes", "workers", "lanes", "accounts", "entries")
QUEUED = 30_000
COUNTED = 2_000

# Accounts in pairs, which pay each other one dollar, to and fro: what each has is one dollar more or less.
_HISTORY = (
    """INSERT INTO entries (account_id, version, transaction_id, currency, amount, balance, effective_at, posted_at)
       SELECT md5((2 * pair - side)::text)::uuid, version, md5(pair || '-' || version)::uuid, 'USD', change, (version %% 2) * sign * 100,
              came, came
         FROM generate_series(1, %(accounts)s / 2) pair CROSS JOIN generate_series(1, %(each)s) version
        CROSS JOIN (VALUES (0, 1), (1, -1)) AS s (side, sign)
        CROSS JOIN LATERAL (SELECT (2 * (version %% 2) - 1) * sign * 100 AS change,
                                   now() - interval '730 days' * (1 - version / (%(each)s + 1.0)) AS came) c""",
    CLOSINGS,
    """INSERT INTO transactions (id, seq, lane, type, status, from_user_id, to_user_id, from_account_id, to_account_id, amount, currency,
                                 to_amount, to_currency, version, effective_at, created_at, completed_at)
       SELECT e.transaction_id, -row_number() OVER (), 0, 'transfer', 'completed', other.account_id, e.account_id, other.account_id,
              e.account_id, 100, 'USD', 100, 'USD', 2, e.effective_at, e.effective_at, e.posted_at
         FROM entries e JOIN entries other ON other.transaction_id = e.transaction_id AND other.amount < 0
        WHERE e.amount > 0""",
    """UPDATE balances b SET amount = e.balance, version = e.version
         FROM (SELECT DISTINCT ON (account_id) account_id, balance, version FROM entries ORDER BY account_id, version DESC) e
        WHERE e.account_id = b.account_id""",
)


def report(measure: str, **values: Any) -> None:
    """Print what was measured."""
    print(json.dumps({"measure": measure, **{name: round(v, 3) if isinstance(v, float) else v for name, v in values.items()}}), flush=True)


@click.command()
@click.option("--entries", type=int, default=ENTRIES[-1], show_default=True, help="The largest history.")
@click.option("--only", type=click.Choice(MEASURES), multiple=True, default=MEASURES, help="What to measure; by default all.")
def main(entries: int, only: tuple[str, ...]) -> None:
    """Measure what was asked for."""
    with servers() as (directory, postgres, environ):
        if "bytes" in only:
            measure_bytes(environ, directory)
        for workers in WORKERS if "workers" in only else ():
            drain("workers", environ, directory, postgres, workers=workers, lanes=4)
        for lanes in LANES if "lanes" in only else ():
            drain("lanes", environ, directory, postgres, workers=2, lanes=lanes)
        for accounts in MANY_ACCOUNTS if "accounts" in only else ():
            drain("accounts", environ, directory, postgres, workers=2, lanes=4, accounts=accounts)
        for size in (size for size in ENTRIES if size <= entries and "entries" in only):
            drain("entries", environ, directory, postgres, workers=1, lanes=2, entries=size)


def measure_bytes(environ: Mapping[str, str], directory: Path) -> None:
    """What an account and a transfer take on disk, indexes, events, audit row and idempotency key included; made by the API, one by one."""
    with fresh_database(environ, directory) as own, Bank(own, directory, workers=1) as bank:
        client = bank.client(bank.log_in())
        empty = _bytes(own)
        accounts = [client.post("/accounts", {"currency": "USD"}).json["id"] for _ in range(COUNTED)]
        opened = _bytes(own)
        for account in accounts[:2]:
            body = {"account_id": account, "amount": "100000.00", "currency": "USD"}
            assert client.post("/transactions/credit", body, Prefer="wait=10").status == 201
        for number in range(COUNTED):
            body = {
                "from_account_id": accounts[number % 2],
                "to_account_id": accounts[2 + number % 900],
                "amount": "1.00",
                "currency": "USD",
            }
            assert client.post("/transactions/transfer", body, f"key {number}").status == 202
        client.close()
        wait_until_posted(own)
        report("bytes", account=(opened - empty) // COUNTED, transfer=(_bytes(own) - opened) // COUNTED)


def _bytes(environ: Mapping[str, str]) -> int:
    [(size,)] = query(
        environ,
        "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    return int(size)


def drain(
    measure: str,
    environ: Mapping[str, str],
    directory: Path,
    postgres: embedded.Postgres,
    *,
    workers: int,
    lanes: int,
    entries: int = 0,
    accounts: int = ACCOUNTS,
) -> None:
    """Empty a full queue, and tell how fast, what it took of the processors, and what a read costs beside so many entries."""
    with fresh_database({**environ, "BANK_LANES": str(lanes)}, directory) as own:
        fill_queue(own, queued=QUEUED, accounts=accounts)
        if entries:
            fill(own, _HISTORY, accounts=ACCOUNTS, each=entries // ACCOUNTS)
        with Bank(own, directory, workers=workers, scheduler=False) as bank:
            before = _processor_seconds(bank, postgres)
            started = time.perf_counter()
            ring_all(bank)
            wait_until_posted(own)
            took = time.perf_counter() - started
            used = {name: (after - before[name]) / took for name, after in _processor_seconds(bank, postgres).items()}
        told = {
            "workers": workers,
            "lanes": lanes,
            "accounts": accounts,
            "per_second": QUEUED / took,
            **{f"{name}_processors": v for name, v in used.items()},
        }
        if entries:
            [(size,)] = query(own, "SELECT pg_database_size(current_database())")
            told |= {"entries": entries, "gigabytes": size / 1e9, **_reads(own)}
        report(measure, **told)


def _processor_seconds(bank: Bank, postgres: embedded.Postgres) -> dict[str, float]:
    """What the workers and the database have used up to now, with the sessions that have ended."""

    def used(pid: int) -> float:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system) + sum(
            used(child.pid) for child in process.children()
        )

    return {"worker": sum(used(worker.pid) for worker in bank.workers), "database": used(postgres.process.pid)}


def _reads(environ: Mapping[str, str]) -> dict[str, float]:
    """Milliseconds that reading one account takes: its balance now, and its last fifty transactions."""
    accounts = [row[0] for row in query(environ, "SELECT id::text FROM accounts WHERE kind = 'customer' ORDER BY id LIMIT 200")]
    with create_app(Config.from_env(environ)).app_context():
        return {
            "balance_ms": _median(lambda account: balances.current(None, account, None, None, 1), accounts),
            "history_ms": _median(lambda account: transactions.history(HistoryQuery(limit=50, account_id=account), None), accounts),
        }


def _median(call: Any, accounts: list[str]) -> float:
    times = []
    for account in accounts:
        started = time.perf_counter()
        call(account)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    main()
