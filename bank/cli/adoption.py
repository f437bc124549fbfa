"""The bank that runs here, as the commands find it that are given no database. Loads next to nothing: every command begins with it."""

import json
from collections.abc import MutableMapping
from pathlib import Path

# The clone: wsgi.py, worker.py and the migrations are beside the package.
ROOT = Path(__file__).resolve().parents[2]

# The file in the data directory by which `bank import` and others find the bank that runs, and what it tells them.
NOTED = "environment.json"
TOLD = (
    *("BANK_ENV", "DATABASE_URL", "REDIS_URL", "JWT_SECRET_KEY", "BANK_SEAL_PUBLIC_KEYS"),
    *("BANK_SELF_SERVICE_DEPOSITS", "BANK_LANES"),
)


def adopt(environ: MutableMapping[str, str]) -> None:
    """Where `environ` names no database, take that of the `bank run` on this data directory, if there was one."""
    file = Path(environ.get("BANK_DATA_DIR") or ROOT / ".data") / NOTED
    if not environ.get("DATABASE_URL") and not environ.get("DATABASE_URL_FILE") and file.exists():
        for name, value in json.loads(file.read_text()).items():
            if not environ.get(f"{name}_FILE"):
                environ.setdefault(name, value)
