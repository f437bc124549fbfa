"""Prints one JSON line a measure: the median of three runs, on the machine it runs on.

Everything runs on this machine's cores, the load generator, PostgreSQL and Redis included, so the
ratios say more than the rates.
"""

import itertools
import json
import math
import os
import random
import secrets
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bank import create_app, embedded
from bank.config import Config
from bank.db import reader, unit_of_work
from bank.events.horizon import settled
from bank.processing.queue import bells
from bank.rebuild import shadow
from bank.replay.run import goal, replay
from tests.bench import depth, load
from tests.bench.log import fill_log
from tests.observability.sink import Sink
from tests.processes import Bank, Client, fresh_database, query, wait_until

RUNS = 3
SECONDS = 6.0
ACCOUNTS = 10_000
QUEUED = 60_000
LOGS = (100_000, 1_000_000)
BATCH = 10_000

# A rate of single transfers that leaves the machine room for a batch.
BESIDE_PER_SECOND = 40


def report(measure: str, runs: list[float], unit: str, **more: Any) -> float:
    """Print the median of the runs as a JSON line, and return it."""
    median = statistics.median(runs)
    line = {"measure": measure, "median": round(median, 3), "unit": unit, "runs": [round(run, 3) for run in runs], **more}
    print(json.dumps(line), flush=True)
    return median


def three(run: Callable[[int], float]) -> list[float]:
    """The results of three runs."""
    return [run(number) for number in range(RUNS)]


@contextmanager
def servers() -> Iterator[tuple[Path, embedded.Postgres, dict[str, str]]]:
    """A PostgreSQL and a Redis that wait for the disk as in production: their directory, the first of them, and what the bank is told."""
    with tempfile.TemporaryDirectory(prefix="bank-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        postgres, redis = embedded.Postgres(directory), embedded.Redis(directory)
        try:
            environ = {
                "BANK_ENV": "test",
                "DATABASE_URL": postgres.start(),
                "REDIS_URL": redis.start(),
                "JWT_SECRET_KEY": secrets.token_hex(32),
                "BANK_SEAL_KEY": secrets.token_hex(32),
                "BANK_SELF_SERVICE_DEPOSITS": "true",
                "RATELIMIT_ENABLED": "false",
                "BANK_LOG_LEVEL": "WARNING",
                # Half of them may wait for an outcome: as many as the load has connections, should all meet in one process.
                "BANK_WEB_THREADS": str(2 * load.THREADS),
                # Long enough that a token outlives the benchmark.
                "BANK_ACCESS_TOKEN_SECONDS": "7200",
            }
            yield directory, postgres, environ
        finally:
            redis.stop()
            postgres.stop()


def main() -> None:
    """Measure everything."""
    with servers() as (directory, _, environ):
        tpcb = measure_tpcb(environ["DATABASE_URL"])
        measure_drain(environ, directory, tpcb)
        measure_limits(environ, directory)
        measure_log(environ, directory)
        measure_depth(environ, directory)
        measure_api(environ, directory)
        measure_batch(environ, directory, tpcb)
        measure_traces(environ, directory)


def measure_tpcb(database_url: str) -> float | None:
    """TPC-B by pgbench on the same server, where there is a pgbench on the machine."""
    pgbench = shutil.which("pgbench")
    if pgbench is None:
        print(json.dumps({"measure": "tpcb", "left_out": "there is no pgbench on this machine"}), flush=True)
        return None
    url = database_url.replace("postgresql+psycopg2://", "postgresql://")
    subprocess.run([pgbench, "-i", "-s", "50", "-q", url], check=True, capture_output=True)
    options = ["-M", "prepared", "-c", "8", "-j", "2", "-T", str(int(SECONDS) + 4)]

    def run(number: int) -> float:
        output = subprocess.run([pgbench, *options, url], check=True, capture_output=True, text=True).stdout
        return float(next(line for line in output.splitlines() if line.startswith("tps = ")).split()[2])

    tpcb = report("tpcb", three(run), "transactions/s")
    subprocess.run([pgbench, "-i", "-I", "d", url], check=True, capture_output=True)
    return tpcb


def measure_drain(environ: Mapping[str, str], directory: Path, tpcb: float | None) -> None:
    """How fast a full queue is emptied by the workers of a default bank, from the first bell to the last commit; without
    anybody who follows the log, and while it is sealed: how much that costs, and how far sealing is behind at the worst."""
    lags: list[float] = []

    def run(sealed: bool) -> float:
        with fresh_database(environ, directory) as own:
            fill_queue(own)
            with Bank(own, directory, workers=2, scheduler=False) as bank:
                if sealed:
                    bank.add("follower", "-m", "bank", "follow")
                    wait_until(lambda: sealing_lag(own) == 0, "the submissions are sealed", 120)
                started = time.perf_counter()
                ring_all(bank)
                worst = wait_until_posted(own)
                rate = QUEUED / (time.perf_counter() - started)
                if sealed:
                    lags.append(worst)
                    wait_until(lambda: sealing_lag(own) == 0, "the rest is sealed", 10)
                return rate

    pairs = [(run(False), run(True)) for _ in range(RUNS)]
    runs = [plain for plain, _ in pairs]
    report("drain", runs, "transfers/s", accounts=ACCOUNTS, queued=QUEUED)
    report("drain_while_sealed", [sealed for _, sealed in pairs], "transfers/s")
    report("sealing_cost", [(1 - sealed / plain) * 100 for plain, sealed in pairs], "%", aim=10)
    report("sealing_lag", lags, "s", aim=3)
    if tpcb is not None:
        report("drain_to_tpcb", [rate / tpcb for rate in runs], "ratio", aim=3)


# What a bank may have set for all of its customers; none is reached.
LIMITS: tuple[dict[str, Any], ...] = (
    {"kind": "single", "amount": "5000.00"},
    {"kind": "sum", "amount": "10000.00", "window": "day"},
    {"kind": "count", "count": 1_000, "window": "day"},
)
RULES = (
    {"name": "Large", "expression": "transaction.amount > 1000000 && user.age_days < 30", "effect": "review"},
    {"name": "Odd", "expression": 'transaction.type == "debit" && account.available < 100', "effect": "flag"},
)


def measure_limits(environ: Mapping[str, str], directory: Path) -> None:
    """What limits and rules for everybody cost the drain: a full queue is emptied without them and with them."""

    def run(limited: bool) -> float:
        with fresh_database(environ, directory) as own:
            fill_queue(own)
            with Bank(own, directory, workers=2, scheduler=False) as bank:
                client = bank.client(bank.log_in())
                for body in LIMITS if limited else ():
                    assert client.post("/limits", {"role": "customer", "currency": "USD", **body}).status == 201
                for rule in RULES if limited else ():
                    assert client.post("/rules", rule).status == 201
                client.close()
                started = time.perf_counter()
                ring_all(bank)
                wait_until_posted(own)
                return QUEUED / (time.perf_counter() - started)

    pairs = [(run(False), run(True)) for _ in range(RUNS)]
    report("drain_with_limits", [limited for _, limited in pairs], "transfers/s", limits=len(LIMITS), rules=len(RULES))
    report("limits_cost", [(1 - limited / plain) * 100 for plain, limited in pairs], "%", aim=25)


def fill_queue(environ: Mapping[str, str], queued: int = QUEUED, accounts: int = ACCOUNTS) -> None:
    """Pending transfers between random accounts, as if the API had accepted them all before any worker came."""
    lanes = Config.from_env(environ).lanes
    for statement in (
        # Each account is a user's own, and has the user's id.
        """INSERT INTO users (id, username, email, role, status, version)
           SELECT md5(i::text)::uuid, 'bench' || i, 'bench' || i || '@example.com', 'customer', 'active', 1
             FROM generate_series(1, %(accounts)s) i""",
        """INSERT INTO accounts (id, user_id, currency, kind, is_default, version)
           SELECT id, id, 'USD', 'customer', true, 1 FROM users WHERE username LIKE 'bench%%'""",
        # A limit that random transfers do not reach: what is measured is posting.
        """INSERT INTO balances (account_id, user_id, currency, overdraft_limit)
           SELECT id, user_id, currency, 1000000000 FROM accounts""",
        """WITH picked AS MATERIALIZED (
               SELECT gen_random_uuid() AS id, (random() * (%(accounts)s - 1))::int AS source,
                      1 + (random() * (%(accounts)s - 2))::int AS step
                 FROM generate_series(1, %(queued)s)
           ), side AS (
               SELECT id, md5((1 + source)::text)::uuid AS source,
                      md5((1 + (source + step) %% %(accounts)s)::text)::uuid AS target FROM picked
           ), event AS (
               INSERT INTO events (stream_id, version, type, data)
               SELECT id, 1, 'TransactionSubmitted', '{}' FROM side RETURNING position, stream_id
           )
           INSERT INTO transactions (id, seq, lane, type, status, from_user_id, to_user_id, from_account_id,
                                     to_account_id, amount, currency, to_amount, to_currency, actor_id, effective_at)
           SELECT id, position, ('x' || right(source::text, 8))::bit(32)::bigint %% %(lanes)s, 'transfer', 'pending',
                  source, target, source, target, 100, 'USD', 100, 'USD', source, now()
             FROM side JOIN event ON event.stream_id = side.id""",
        "ANALYZE",
    ):
        query(environ, statement, accounts=accounts, queued=queued, lanes=lanes)


def ring_all(bank: Bank) -> None:
    """Ring for every lane."""
    app = create_app(Config.from_env(bank.environ))
    with app.app_context():
        for lane in range(app.config["BANK"].lanes):
            bells.ring(lane)


_LAG = """SELECT COALESCE((SELECT EXTRACT(epoch FROM clock_timestamp() - e.recorded_at)::float8
                              FROM followers f JOIN events e ON e.position > f.position
                             WHERE f.name = 'seal' ORDER BY e.position LIMIT 1), 0)"""


def sealing_lag(environ: Mapping[str, str]) -> float:
    """For how many seconds the first event that is not sealed has been there; 0 when all are."""
    [(sealed,)] = query(environ, "SELECT EXISTS (SELECT FROM followers WHERE name = 'seal' AND position > 0)")
    return float(query(environ, _LAG)[0][0]) if sealed else math.inf


def wait_until_posted(environ: Mapping[str, str]) -> float:
    """Return when no transaction is pending, with the worst lag of sealing; looks every 50 ms over one connection."""
    app = create_app(Config.from_env(environ))
    worst = 0.0
    with app.app_context(), reader() as session:
        while session.execute(text("SELECT EXISTS (SELECT FROM transactions WHERE status = 'pending')")).scalar_one():
            worst = max(worst, session.execute(text(_LAG)).scalar_one())
            time.sleep(0.05)
    return worst


def measure_log(environ: Mapping[str, str], directory: Path) -> None:
    """What reads the whole log, on a short one and on a long one."""
    rates = []
    for events in LOGS:
        with fresh_database(environ, directory) as own:
            fill_log(own, ACCOUNTS, events // 2)
            with create_app(Config.from_env(own)).app_context():
                rates.append(measure_rebuild(events))
                measure_replay(events)
    report("rebuild_growth", [rates[0] / rates[1]], "ratio", of=[f"{events:,} events" for events in LOGS], aim=1)


def measure_rebuild(events: int) -> float:
    """How fast the projections are made again from the log, indexes included."""

    def run(number: int) -> float:
        with unit_of_work() as session:
            shadow.drop(session.connection())
        started = time.perf_counter()
        shadow.fill(shadow.prepare(), settled(shadow.PATIENCE_SECONDS), lambda position: None)
        shadow.index()
        return events / (time.perf_counter() - started)

    return report("rebuild", three(run), "events/s", events=events, aim=20_000)


def measure_replay(events: int) -> None:
    """How fast the state of the bank is folded from the log, the writing of snapshots included; and how soon from the last of these."""

    def run(from_start: bool) -> float:
        started = time.perf_counter()
        replay(goal(None), lambda position: None, from_start=from_start)
        return time.perf_counter() - started

    report("replay", three(lambda _: events / run(True)), "events/s", events=events, aim=60_000)
    report("replay_from_snapshot", three(lambda _: run(False)), "s", events=events)


def measure_depth(environ: Mapping[str, str], directory: Path) -> None:
    """What a read of one account costs at many entries, by what it costs at few."""
    with fresh_database(environ, directory) as own:
        depth.fill_accounts(own)
        with create_app(Config.from_env(own)).app_context():
            for shape in depth.SHAPES:
                for kind, [few, many] in depth.calls(own, shape):
                    report(f"{kind}_{shape}", [many / few], "ratio", ms=[round(few, 3), round(many, 3)], aim=1.5)


def measure_api(environ: Mapping[str, str], directory: Path) -> None:
    """Accepting, reading, and the way from accepted to posted, over HTTP."""
    bare = [measure_bare(environ, directory, method) for method in ("POST", "GET")]
    with fresh_database(environ, directory) as own, Bank(own, directory, workers=2) as bank:
        client, token = bank.client(), bank.log_in()
        client.token = token
        accounts = funded(client, 100)
        client.close()
        accepted = measure_accept(bank, token, accounts, bare[0])
        measure_read(bank, token, accounts, bare[1])
        measure_latency(bank, token, accounts, accepted / 2)
        measure_wake_up(bank, token, accounts)


def funded(client: Client, number: int) -> list[str]:
    """So many new accounts that have money."""
    accounts = [client.post("/accounts", {"currency": "USD"}).json["id"] for _ in range(number)]
    for account in accounts:
        client.post("/transactions/credit", {"account_id": account, "amount": "1000000", "currency": "USD"}, Prefer="wait=10")
    return accounts


def measure_bare(environ: Mapping[str, str], directory: Path, method: str) -> float:
    """Answers a second of a route that does nothing."""
    with Bare(environ, directory) as bare:
        data = load.request(method, "/bare", b"{}" if method == "POST" else b"")
        runs = three(lambda _: load.closed_loop(bare.port, lambda _: itertools.repeat(data), 200, SECONDS).per_second)
    return report(f"bare_{method.lower()}", runs, "requests/s")


class Bare(Bank):
    """The bare application on the settings of the bank's own."""

    APPLICATION = "tests.bench.bare:app"

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        super().__init__(environ, directory, workers=0, scheduler=False)


def transfers(token: str, accounts: list[str], run: str, **headers: str) -> Callable[[int], Iterator[bytes]]:
    """For each thread the requests for transfers between random accounts, each with a key of its own."""

    def make(thread: int) -> Iterator[bytes]:
        draw = random.Random(f"{run}-{thread}")
        for number in itertools.count():
            source, target = draw.sample(accounts, 2)
            body = {"from_account_id": source, "to_account_id": target, "amount": "1.00", "currency": "USD"}
            yield load.request(
                "POST",
                "/api/v1/transactions/transfer",
                json.dumps(body).encode(),
                Authorization=f"Bearer {token}",
                Idempotency_Key=f"{run}-{thread}-{number}",
                **headers,
            )

    return make


def measure_accept(bank: Bank, token: str, accounts: list[str], bare: float) -> float:
    """POST transfer accepted per second while the workers post what is accepted."""

    def run(number: int) -> float:
        rate = load.closed_loop(bank.port, transfers(token, accounts, f"accept-{number}"), 202, SECONDS).per_second
        wait_until_posted(bank.environ)
        return rate

    runs = three(run)
    accepted = report("accept", runs, "transfers/s")
    report("accept_to_bare", [rate / bare for rate in runs], "ratio", aim=0.20)
    return accepted


def measure_read(bank: Bank, token: str, accounts: list[str], bare: float) -> None:
    """GET the balance of an account, per second."""

    def make(thread: int) -> Iterator[bytes]:
        draw = random.Random(thread)
        while True:
            path = f"/api/v1/balances/current?account_id={draw.choice(accounts)}"
            yield load.request("GET", path, Authorization=f"Bearer {token}")

    runs = three(lambda _: load.closed_loop(bank.port, make, 200, SECONDS).per_second)
    report("read", runs, "requests/s")
    report("read_to_bare", [rate / bare for rate in runs], "ratio", aim=0.35)


def measure_latency(bank: Bank, token: str, accounts: list[str], per_second: float) -> None:
    """From sending a transfer to the answer that it is completed, at half of the rate that can be accepted.

    Seen by clients that wait for the outcome, so accepting and the way back are in it.
    """
    runs = [
        load.open_loop(bank.port, transfers(token, accounts, f"latency-{number}", Prefer="wait=20"), 201, SECONDS, per_second)
        for number in range(RUNS)
    ]
    report("sent_to_completed_p50", [run.percentile(50) for run in runs], "ms", at_per_second=round(per_second))
    report("sent_to_completed_p99", [run.percentile(99) for run in runs], "ms", at_per_second=round(per_second))


def measure_wake_up(bank: Bank, token: str, accounts: list[str]) -> None:
    """From the posting of a single transfer to the final answer in the hands of a client that waits for it."""
    client = bank.client(token)

    def run(number: int) -> float:
        delays = []
        for source, target in itertools.islice(itertools.pairwise(accounts), 50):
            body = {"from_account_id": source, "to_account_id": target, "amount": "1.00", "currency": "USD"}
            answer = client.post("/transactions/transfer", body, Prefer="wait=10")
            arrived = datetime.now(UTC)
            assert answer.status == 201, answer.body
            delays.append((arrived - datetime.fromisoformat(answer.json["completed_at"])).total_seconds() * 1000)
        return statistics.median(delays)

    report("posted_to_answer", three(run), "ms", aim=50)
    client.close()


def measure_batch(environ: Mapping[str, str], directory: Path, tpcb: float | None) -> None:
    """A batch of ten thousand transfers from its POST to the last of them completed, and what it makes single ones wait."""
    with fresh_database(environ, directory) as own:
        fill_queue(own, queued=0)
        with Bank(own, directory, workers=2, batch_worker=True) as bank:
            token = bank.log_in()
            accounts = [row[0] for row in query(own, "SELECT id::text FROM accounts WHERE kind = 'customer'")]
            # The bank's own accounts of the currency come with the first account that is opened by the API.
            bank.client(token).post("/accounts", {"currency": "USD"})
            taken: list[float] = []
            rates = three(lambda number: BATCH / batch_seconds(bank, token, accounts, f"alone-{number}", taken))
            report("batch", rates, "transfers/s", items=BATCH)
            report("batch_accepted", taken, "s", items=BATCH)
            if tpcb is not None:
                report("batch_to_tpcb", [rate / tpcb for rate in rates], "ratio", aim=3)
            measure_beside(bank, token, accounts)


def measure_traces(environ: Mapping[str, str], directory: Path) -> None:
    """What it costs to trace a tenth of the requests, from the request to the statements of the drain: in transfers a second, and in
    the processor's time that the bank's own processes take for one, which depends less on what else the machine does."""
    with ExitStack() as stack:
        sink = stack.enter_context(Sink())
        traced = {"BANK_TRACES_URL": sink.url, "BANK_TRACES_PERCENT": "10"}
        sides = []
        for name, told in (("off", {}), ("on", traced)):
            (directory / name).mkdir()
            own = stack.enter_context(fresh_database({**environ, **told}, directory / name))
            bank = stack.enter_context(Bank(own, directory / name, workers=2, scheduler=False))
            client = bank.client(bank.log_in())
            sides.append((bank, client.token or "", funded(client, 20)))
            client.close()

        def run(bank: Bank, token: str, accounts: list[str], name: str) -> tuple[float, float]:
            before = cpu_seconds(bank)
            rate = load.closed_loop(bank.port, transfers(token, accounts, name), 202, SECONDS).per_second
            wait_until_posted(bank.environ)
            return rate, (cpu_seconds(bank) - before) / (rate * SECONDS) * 1000

        def pair(number: int) -> list[tuple[float, float]]:
            # They take turns in being the first, which finds a quieter disk.
            turn = -1 if number % 2 else 1
            return [run(*side, f"traces-{number}") for side in sides[::turn]][::turn]

        # The first run of each warms it up.
        pairs = [pair(number) for number in range(RUNS + 1)][1:]
        assert sink.raw, "nothing was traced"
    report("accept_while_traced", [on for _, (on, _) in pairs], "transfers/s", percent=10)
    report("traces_cost", [(1 - on / off) * 100 for (off, _), (on, _) in pairs], "%", aim=5)
    report(
        "traces_cpu_cost", [(on / off - 1) * 100 for (_, off), (_, on) in pairs], "%", aim=5, ms=[round(off, 3) for (_, off), _ in pairs]
    )


def cpu_seconds(bank: Bank) -> float:
    """The processor's time that the processes that answer and that post have taken so far. Linux only."""
    ticks = 0
    for pid in (*bank.web.children(), *(worker.pid for worker in bank.workers)):
        # The name before it may hold anything but a parenthesis that comes last.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def batch_seconds(bank: Bank, token: str, accounts: list[str], run: str, taken: list[float]) -> float:
    """How long a batch takes until all of it is completed; `taken` gets how long until it was accepted."""
    draw = random.Random(run)
    items = []
    for number in range(BATCH):
        source, target = draw.sample(accounts, 2)
        parties = {"from_account_id": source, "to_account_id": target}
        items.append({"type": "transfer", **parties, "amount": "0.01", "currency": "USD", "reference": f"{run}-{number}"})
    body = json.dumps({"mode": "independent", "transactions": items}).encode()
    client = bank.client(token)
    started = time.perf_counter()
    answer = client.request("POST", "/api/v1/transactions/batch", headers={"Content-Type": "application/json"}, data=body)
    assert answer.status == 202, answer.body
    taken.append(time.perf_counter() - started)
    path = answer.headers["Location"].removeprefix("/api/v1") + "?limit=1"
    while (found := client.get(path).json)["status"] == "pending":
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    assert found["counts"]["completed"] == BATCH, found["counts"]
    client.close()
    return seconds


def measure_beside(bank: Bank, token: str, accounts: list[str]) -> None:
    """How long single transfers take from being sent to being known completed, without a batch and while there always is one."""

    def run(name: str) -> float:
        return load.open_loop(bank.port, transfers(token, accounts, name, Prefer="wait=20"), 201, SECONDS, BESIDE_PER_SECOND).percentile(99)

    pairs = []
    for number in range(RUNS):
        alone = run(f"alone-{number}")
        over, batches = threading.Event(), itertools.count()

        def keep_one_going(number: int = number, over: threading.Event = over, batches: Iterator[int] = batches) -> None:
            while not over.is_set():
                batch_seconds(bank, token, accounts, f"beside-{number}-{next(batches)}", [])

        posting = threading.Thread(target=keep_one_going)
        posting.start()
        try:
            pairs.append((alone, run(f"beside-{number}")))
        finally:
            over.set()
            posting.join()
    report("single_p99", [alone for alone, _ in pairs], "ms", at_per_second=BESIDE_PER_SECOND)
    report("single_p99_beside_a_batch", [beside for _, beside in pairs], "ms", at_per_second=BESIDE_PER_SECOND)
    report("single_p99_ratio", [beside / alone for alone, beside in pairs], "ratio", aim=3)


if __name__ == "__main__":
    main()
