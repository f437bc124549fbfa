"""Counters that threads share, and what all processes have counted."""

from collections import Counter
from collections.abc import Callable
from threading import Barrier, Thread

from bank.processing.counters import BatchDone, Counters, add_up
from tests.conftest import Person


def test_no_count_is_lost_between_threads() -> None:
    counters, together = Counters(), Barrier(8)

    def count() -> None:
        together.wait()
        for _ in range(2_000):
            counters.accepted("transfer")
            counters.batch_done(BatchDone(lane=0, posted=Counter(transfer=2), volume=Counter(USD=5), size=2))

    threads = [Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = counters.snapshot()
    assert (numbers["accepted"], numbers["posted"], numbers["volume"]) == ({"transfer": 16_000}, {"transfer": 32_000}, {"USD": 80_000})
    assert (numbers["batches"], numbers["batched"], numbers["largest_batch"]) == (16_000, 32_000, 2)


def test_a_listener_may_read_the_numbers_while_it_is_told() -> None:
    counters, seen = Counters(), []
    counters.listen("test", lambda happened: seen.append(counters.snapshot()["accepted"]))
    counters.accepted("credit")
    assert seen == [{"credit": 1}]


def test_processes_add_up() -> None:
    one, two = Counters(), Counters()
    one.batch_done(
        BatchDone(lane=0, posted=Counter(credit=3), failed=Counter({("credit", "account_frozen"): 1}), volume=Counter(USD=100), size=4)
    )
    two.batch_done(BatchDone(lane=1, posted=Counter(credit=1), volume=Counter(USD=50, EUR=7), size=1))
    total = add_up([one.snapshot(), two.snapshot()])
    assert total["posted"] == {"credit": 4}
    assert total["failed"] == {"account_frozen": 1}
    assert total["volume"] == {"EUR": 7, "USD": 150}
    assert (total["batches"], total["mean_batch"], total["largest_batch"]) == (2, 2.5, 4)


def test_stats_show_what_was_accepted_posted_refused_and_waits(alice: Person, admin: Person, post_all: Callable[[], None]) -> None:
    account = alice.open_account("CHF")
    post_all()
    before = admin.get("/admin/stats").json
    body = {"account_id": account["id"], "currency": "CHF"}
    alice.post("/transactions/credit", {**body, "amount": "20.00"})
    alice.post("/transactions/debit", {**body, "amount": "50.00"})
    waiting = admin.get("/admin/stats").json["queue"]
    post_all()
    after = admin.get("/admin/stats").json

    def more(name: str, key: str) -> int:
        return int(after[name].get(key, 0)) - int(before[name].get(key, 0))

    assert (more("accepted", "credit"), more("accepted", "debit")) == (1, 1)
    assert (more("posted", "credit"), more("failed", "insufficient_funds")) == (1, 1)
    assert float(after["volume"]["CHF"]) - float(before["volume"].get("CHF", 0)) == 20
    assert waiting["pending"] == 2 and waiting["oldest_seconds"] >= 0
    assert after["queue"] == {"pending": 0, "oldest_seconds": 0, "lanes": []}


def test_metrics_show_the_same_numbers(alice: Person, post_all: Callable[[], None]) -> None:
    account = alice.open_account("NOK")
    alice.post("/transactions/credit", {"account_id": account["id"], "amount": "7.50", "currency": "NOK"})
    post_all()
    lines = alice.client.get("/metrics").text.splitlines()
    assert 'bank_volume_total{currency="NOK"} 7.5' in lines
    assert any(line.startswith('bank_transactions_posted_total{type="credit"}') for line in lines)
    assert not any(account["id"] in line for line in lines)
