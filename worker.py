"""An RQ worker process: `python worker.py`."""

from bank import create_app
from bank.processing import worker

if __name__ == "__main__":
    worker.run(create_app())
