"""Nobody writes a line of the log but the bank: what a caller sends stays within the line that tells of it."""

import json
import subprocess
import sys

_TELLS = r"""
import logging
import structlog
from bank import create_app
create_app()
PLANTED = 'a\r\n{"event": "made up"}\n\x1b[31mred\x1b[0m\x00\x07\x85\u2028\u2029b'
structlog.get_logger("bank").error("told", path=PLANTED)
logging.getLogger("other").error("of %s", PLANTED)
try:
    raise RuntimeError(PLANTED)
except RuntimeError:
    logging.getLogger("other").exception("failed")
"""


def test_line_breaks_and_escapes_of_a_caller_stay_in_one_line(environ: dict[str, str]) -> None:
    told = {**environ, "BANK_ENV": "production", "RATELIMIT_ENABLED": "true", "BANK_SELF_SERVICE_DEPOSITS": "false"}
    done = subprocess.run([sys.executable, "-c", _TELLS], env=told, capture_output=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stderr.split(b"\n") if line]
    assert [line["event"] for line in lines if line["event"] in ("told", "failed", "made up")] == ["told", "failed"]
    assert len(lines) == 3 and "made up" in lines[0]["path"]
    # What moves a terminal's cursor, or colours it, is written as an escape of JSON.
    assert not set(done.stderr) & (set(range(32)) - {10})
