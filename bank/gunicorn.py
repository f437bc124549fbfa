"""How gunicorn serves the API: `gunicorn -c bank/gunicorn.py wsgi:app`."""

import os
from pathlib import Path
from typing import Any

from prometheus_client import multiprocess

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("BANK_WEB_WORKERS", "2"))
worker_class = "gthread"
threads = int(os.environ.get("BANK_WEB_THREADS", "16"))

# Each process opens its own database and Redis connections: a pool that crosses a fork hands one
# process the other's rows.
preload_app = False

# The gthread worker does not end a request that takes long, so `timeout` only notices a worker
# whose main loop hangs; requests are bounded by the database's statement and lock timeouts.
timeout = 20
# What is held back by `Prefer: wait`, and streams, end when the process is asked to stop (`bank.web.serving`); what is left is bounded by
# the database's time-outs, and hardly ever takes a second.
graceful_timeout = 7
keepalive = 30

# The heartbeat file of each worker: on a disk that is busy, touching it can stall the worker.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nosec B108 # noqa: S108 - memory; the names there are gunicorn's own

# Tokens and cursors fit into half of this.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# A socket that takes commands would be one more thing to guard.
control_socket_disable = True

# The application writes its own line for each request, with what it knows and gunicorn does not.
accesslog = None
errorlog = "-"
loglevel = "info"
logger_class = "bank.observability.gunicorn.Log"


def post_worker_init(worker: Any) -> None:
    """Let those who wait, and streams, be answered when the worker is asked to stop, and not hold it up."""
    # Not above: the arbiter reads this file, and needs none of the application.
    from bank.processes import spare_collector
    from bank.web import serving

    serving.ends_with(lambda: worker.alive)
    spare_collector()


def child_exit(server: Any, worker: Any) -> None:
    """Let go of the gauges of a worker that ended, which would otherwise count for ever."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        multiprocess.mark_process_dead(worker.pid)
