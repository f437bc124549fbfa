"""Clients that move money as well-behaved clients do, and write down what they were told."""

import random
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.processes import HOST, Client

# How long a client waits for an answer. Whoever makes it wait longer has a fault of its own.
PATIENCE_SECONDS = 25.0

_CLIENTS, _READERS = 4, 2


@dataclass
class Told:
    """What all clients together were told. `ids` are the transactions of each key; a key without one was never acknowledged."""

    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    refused: int = 0
    broken_off: int = 0
    wrong: list[str] = field(default_factory=list)
    overlong: list[str] = field(default_factory=list)
    longest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Load:
    """Transfers between accounts of one customer, each with a key of its own that is sent until it is acknowledged; and reads."""

    def __init__(self, port: int, token: str, accounts: list[str], name: str) -> None:
        self._port, self._token, self._accounts, self._name = port, token, accounts, name
        self.told = Told()
        self._stop = threading.Event()
        self._give_up_at = float("inf")

    @contextmanager
    def running(self) -> Iterator[Told]:
        """Let them run for as long as the block does. Behind it every key is acknowledged, or thirty seconds have gone by."""
        threads = [threading.Thread(target=self._move, args=(number,), daemon=True) for number in range(_CLIENTS)]
        threads += [threading.Thread(target=self._read, args=(number,), daemon=True) for number in range(_READERS)]
        for thread in threads:
            thread.start()
        try:
            yield self.told
        finally:
            self._give_up_at = time.monotonic() + 30 + PATIENCE_SECONDS
            self._stop.set()
            for thread in threads:
                thread.join(60 + PATIENCE_SECONDS)
            if any(thread.is_alive() for thread in threads):
                self.told.overlong.append("a client never came back")

    def _move(self, number: int) -> None:
        client, second = (Client(self._port, self._token, PATIENCE_SECONDS) for _ in range(2))
        draw, count = random.Random(f"{self._name}-{number}"), 0
        while not self._stop.is_set():
            source, target = draw.sample(self._accounts, 2)
            key = f"{self._name}-{number}-{count}"
            count += 1
            body = {"from_account_id": source, "to_account_id": target, "amount": "0.01", "currency": "USD", "reference": key}
            with self.told.lock:
                self.told.ids[key]
            if draw.random() < 0.25:
                self._send_twice((client, second), key, body)
            wait = {"Prefer": "wait=5"} if draw.random() < 0.25 else {}
            while not self._send(client, key, body, wait) and time.monotonic() < self._give_up_at:
                time.sleep(0.1 + draw.random() * 0.2)
        client.close()
        second.close()

    def _send_twice(self, clients: tuple[Client, Client], key: str, body: dict[str, str]) -> None:
        """As an impatient client does, or a proxy: the same request twice at once."""
        threads = [threading.Thread(target=self._send, args=(client, key, body, {})) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self, client: Client, key: str, body: dict[str, str], wait: dict[str, str]) -> bool:
        answer = self._ask(client, lambda: client.post("/transactions/transfer", body, key, **wait))
        if answer is None:
            return False
        status, made = answer
        if status in (201, 202, 422) and made:
            with self.told.lock:
                self.told.ids[key].add(made)
            return True
        return False

    def _read(self, number: int) -> None:
        client, draw = Client(self._port, self._token, PATIENCE_SECONDS), random.Random(f"{self._name}-reader-{number}")
        while not self._stop.is_set():
            path = f"/accounts/{draw.choice(self._accounts)}"
            self._ask(client, lambda path=path: client.get(path))
            time.sleep(0.02)
        client.close()

    def _ask(self, client: Client, call: "object") -> tuple[int, str] | None:
        began = time.monotonic()
        try:
            answer = call()  # type: ignore[operator]
        except (OSError, HTTPException) as error:
            with self.told.lock:
                self.told.broken_off += 1
                if isinstance(error, TimeoutError):
                    self.told.overlong.append(f"no answer for {PATIENCE_SECONDS:.0f} s")
            return None
        took = time.monotonic() - began
        with self.told.lock:
            self.told.longest = max(self.told.longest, took)
            if answer.status in (503, 429):
                self.told.refused += 1
            elif answer.status not in (200, 201, 202, 409, 422):
                self.told.wrong.append(f"{answer.status} {answer.body[:200]!r}")
        made = ""
        with suppress(ValueError, AttributeError):
            told = answer.json
            made = str((told.get("transaction") or told).get("id") or "")
        return answer.status, made


def send_half_a_body(port: int, token: str) -> None:
    """Begin a transfer, and hang up in the middle of its body."""
    head = (
        "POST /api/v1/transactions/transfer HTTP/1.1\r\nHost: bank\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: 200\r\n\r\n"
    )
    with socket.create_connection((HOST, port), timeout=5) as line:
        line.sendall(head.encode() + b'{"from_account_id": "')
