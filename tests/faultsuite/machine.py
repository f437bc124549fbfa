"""What a machine does to a bank: a full disk and a network that loses packets, where root runs it; a clock that is off."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from bank.embedded import places

# Set in the process that has a network of its own.
_INSIDE = "BANK_FAULTS_NETWORK"

# What a small file system holds: the cluster and little else; a log of Redis's writes.
_SMALL = {"primary": "900m", "redis": "16m"}

# libfaketime would move what C asks too, but Python's time.sleep() fails under it.
_RUN_OFF = """
import datetime, runpy, sys
import freezegun
off = datetime.timedelta(seconds=int(sys.argv[1]))
freezegun.freeze_time(datetime.datetime.now(datetime.UTC) + off, tick=True, ignore=["threading"]).start()
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _can(*command: str) -> bool:
    """Whether root may do it here: in some containers he may not."""
    if os.geteuid() != 0 or shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@cache
def no_small_disk() -> str:
    """Why no small file system can be mounted; empty when one can."""
    return "" if _can("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt") else "needs root, and mount"


def no_network() -> str:
    """Why packets cannot be dropped; empty when they can."""
    return "" if _INSIDE in os.environ else "needs root, unshare, ip and iptables"


def enter_network() -> None:
    """Go on as a process with a network of its own, a machine whose packets are lost when nobody else's are. Where that is not to be
    had, as before."""
    if _INSIDE in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    elif _can("unshare", "--net", "sh", "-c", "ip link set lo up && iptables -A INPUT -p tcp --dport 1 -j DROP"):
        os.environ[_INSIDE] = "own"
        os.execvp("unshare", ["unshare", "--net", "--", sys.executable, *sys.orig_argv[1:]])


@contextmanager
def dropped(port: int) -> Iterator[None]:
    """Packets to and from the port are lost: nobody refuses, nobody acknowledges."""
    rules = [["INPUT", "-p", "tcp", which, str(port), "-j", "DROP"] for which in ("--dport", "--sport")]
    try:
        for rule in rules:
            subprocess.run(["iptables", "-A", *rule], check=True)
        yield
        counted = subprocess.run(["iptables", "-L", "INPUT", "-v", "-n", "-x"], check=True, capture_output=True, text=True).stdout
        lost = [int(line.split()[0]) for line in counted.splitlines() if f"pt:{port}" in line]
        assert any(lost), f"no packet to or from {port} was lost"
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-D", *rule], check=False)


@contextmanager
def small_disk(part: str, home: Path) -> Iterator[None]:
    """A small file system of its own at `home`."""
    home.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SMALL[part]},mode=700", "tmpfs", home], check=True)
    try:
        user = places.service_user()
        if part == "primary" and user is not None:
            os.chown(home, user.pw_uid, user.pw_gid)
        yield
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


@contextmanager
def full(home: Path) -> Iterator[None]:
    """Nothing fits on the file system of `home` any more."""
    ballast = home / "ballast"
    try:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(65_536)):
                pass
        yield
    finally:
        ballast.unlink()


def clock_off(seconds: int) -> tuple[str, ...]:
    """What Python is told before a script and its arguments, so that its clock is off by so much: `time` and `datetime` are, and what
    sleeps and waits goes by the kernel's."""
    return ("-c", _RUN_OFF, str(seconds))
