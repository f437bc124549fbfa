"""An RQ worker process: `python worker.py` posts transactions, `python worker.py batch` those that came in
batches, `python worker.py slow` does what takes minutes."""

import sys

from bank import create_app
from bank.processing import worker
from bank.processing.queue import BATCH_QUEUE, QUEUE, SLOW_QUEUE

# One queue a worker: see there.
_QUEUES = {(): QUEUE, ("batch",): BATCH_QUEUE, ("slow",): SLOW_QUEUE}

if __name__ == "__main__":
    queue = _QUEUES.get(tuple(sys.argv[1:]))
    if queue is None:
        sys.exit(f"usage: {sys.argv[0]} [batch | slow]")
    worker.run(create_app(), queue)
