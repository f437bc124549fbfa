"""Requests that the bank itself makes go where its operator said, and nowhere else."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bank.errors import Unavailable
from bank.fx.provider import EuropeanCentralBank


@pytest.fixture
def redirecting() -> Iterator[tuple[str, list[str]]]:
    """A server that sends everybody on to another path of its own, as it could to any server inside; and what it was asked for."""
    asked: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/inside")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing to tell."""

    server = HTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/rates", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_redirect_is_not_followed(redirecting: tuple[str, list[str]]) -> None:
    url, asked = redirecting
    with pytest.raises(Unavailable, match="302"):
        EuropeanCentralBank(url).days_after(None)
    assert asked == ["/rates"]
