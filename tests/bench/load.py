"""A load generator that is as small as it can be: it shares the machine with what it measures.

Requests are bytes made beforehand, sent over kept-alive sockets; of the answers only the status and the
length are read.
"""

import re
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)

THREADS = 16


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: answers a second, and the seconds each took."""

    per_second: float
    seconds: list[float]

    def percentile(self, percent: int) -> float:
        """The `percent`-th percentile of the answer times, in milliseconds."""
        return statistics.quantiles(self.seconds, n=100)[percent - 1] * 1000


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of an HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + body


def closed_loop(port: int, make: Callable[[int], Iterator[bytes]], expect: int, seconds: float) -> Load:
    """Each of THREADS connections sends its next request as soon as it has the answer to the last.

    `make(thread)` yields the requests of a thread. Raises AssertionError for another status than `expect`.
    """
    return _run(port, make, expect, seconds, pace=None)


def open_loop(port: int, make: Callable[[int], Iterator[bytes]], expect: int, seconds: float, per_second: float) -> Load:
    """Requests leave at a fixed rate, shared evenly over the connections, whatever the answers take."""
    return _run(port, make, expect, seconds, pace=THREADS / per_second)


def _run(port: int, make: Callable[[int], Iterator[bytes]], expect: int, seconds: float, pace: float | None) -> Load:
    taken: list[list[float]] = [[] for _ in range(THREADS)]
    failures: list[str] = []
    ready = threading.Barrier(THREADS + 1)

    def work(thread: int) -> None:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests, mine = make(thread), taken[thread]
        ready.wait()
        begin = time.perf_counter()
        for number, data in enumerate(requests):
            start = time.perf_counter()
            if pace is not None:
                due = begin + (number + thread / THREADS) * pace
                # A benchmark keeps its pace by the clock: there is no event to wait for.
                time.sleep(max(0.0, due - start))
                start = time.perf_counter()
            if start - begin > seconds:
                break
            connection.sendall(data)
            status, body = _answer(connection)
            mine.append(time.perf_counter() - start)
            if status != expect:
                failures.append(f"answer {status}, not {expect}: {body!r}")
                break
        connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    assert not failures, failures[0]
    times = [second for mine in taken for second in mine]
    return Load(len(times) / elapsed, times)


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    data = connection.recv(65536)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += connection.recv(65536)
    length = _LENGTH.search(data, 0, end + 2)
    whole = end + 4 + (int(length[1]) if length else 0)
    while len(data) < whole:
        data += connection.recv(65536)
    return int(data[9:12]), data[end + 4 :]
