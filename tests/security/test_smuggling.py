"""A request whose end two servers could see at different places is refused, so that none can be hidden in another's body.

What answers here is the bank's own server; `test_through_the_proxy.py` tries the same through HAProxy.
"""

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.processes import HOST, Bank, fresh_database


@pytest.fixture(scope="module")
def bank(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """A real server: the test client has no bytes to be read in two ways."""
    directory: Path = tmp_path_factory.mktemp("smuggling")
    with fresh_database(environ, directory) as own, Bank(own, directory, web_workers=1, workers=0, scheduler=False) as bank:
        yield bank


HIDDEN = b"GET /health/ready HTTP/1.1\r\nHost: bank\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n"),
        (b"Content-Length: 0\r\nContent-Length: 44\r\n", b""),
        (b"Content-Length: 0, 44\r\n", b""),
        (b"Content-Length: +0\r\n", b""),
        (b"Content-Length: -1\r\n", b""),
        (b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
        (b" Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"),
    ],
)
def test_a_body_of_two_lengths_ends_the_connection(bank: Bank, headers: bytes, body: bytes) -> None:
    with socket.create_connection((HOST, bank.port), timeout=20) as connection:
        connection.sendall(b"POST /api/v1/auth/refresh HTTP/1.1\r\nHost: bank\r\n" + headers + b"\r\n" + body + HIDDEN)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), answer
    # One answer, and not a second for what was hidden.
    assert answer.count(b"HTTP/1.1 ") == 1
