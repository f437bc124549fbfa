"""Child processes that end with their parent, and locks that end with their holders."""

import ctypes
import fcntl
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1

# Objects made and not yet gone before the collector looks for circles among them: a batch of five hundred makes more than 700.
_YOUNG = 50_000


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    log: Path,
    death_signal: signal.Signals = signal.SIGTERM,
    cwd: Path | None = None,
    user: int | None = None,
    group: int | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, its output appended to `log`.

    The session keeps a terminal's Ctrl-C away from it, so that whoever started it decides in which
    order things stop. If this process dies without stopping it, Linux sends it `death_signal`.
    `user` and `group` are ids to run as, `keep` file descriptors to hand on. Raises OSError when
    it cannot be executed.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in argv],
            env=dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            pass_fds=keep,
            preexec_fn=_ends_with_parent(death_signal),
        )


def _ends_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    # Looked up here and not after the fork, where nothing may be loaded any more.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arm() -> None:
        # Runs after subprocess has changed the user, which would have cleared it.
        prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), death_signal)

    return arm


def terminate(child: subprocess.Popen[bytes], *signals: tuple[signal.Signals, float]) -> None:
    """Send each signal in turn and give the child so many seconds to end; at last kill its whole group."""
    for number, patience in signals:
        if child.poll() is not None:
            break
        child.send_signal(number)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    kill_group(child)
    child.wait()


def kill_group(child: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to whatever is left of the child's group, the child itself gone or not."""
    # A group keeps its number as long as one member lives; with none left there is nothing to find.
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def lock(path: Path) -> int | None:
    """Take the lock on `path` for as long as the returned descriptor is open, here or in a child that inherits it.

    None when another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def spare_collector() -> None:
    """Keep Python's cyclic garbage collector from walking through all that was loaded, again and again, while money moves.

    Called once, when a process has been set up. What requests and batches make goes by reference count; what the collector is
    for are the few circles among it. A drain with limits took a fifth less time so.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
