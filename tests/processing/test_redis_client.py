"""The one Redis client of a process."""

import sys
from threading import Barrier, Thread

from bank.processing import queue


def test_threads_that_ask_for_it_first_at_once_all_can_use_it(app):
    failed = []
    barrier = Barrier(4)

    def use():
        with app.app_context():
            barrier.wait()
            try:
                with queue.redis().pipeline(transaction=False) as pipeline:
                    pipeline.incr("bank:test").execute()
            except Exception as error:
                failed.append(error)

    usual = sys.getswitchinterval()
    # Threads that change places all the time meet in a first call soon.
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            queue._connection.cache_clear()
            threads = [Thread(target=use) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert failed == []
