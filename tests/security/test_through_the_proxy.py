"""Through the HAProxy of docker-compose.yml: no request hides in another's body, and a caller's address is not what he says."""

import json
import re
import secrets
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bank.processes import spawn, terminate
from tests.processes import ADMIN_PASSWORD, HOST, ROOT, Bank, Client, free_port, fresh_database, wait_until

TOOLS = ROOT / ".tools"
# Of .ci/tools, with the libraries that came along, or of the machine.
HAPROXY = shutil.which("haproxy", path=f"{TOOLS}/usr/sbin:/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(not HAPROXY, reason="HAProxy is missing: .ci/tools gets it.")


@pytest.fixture(scope="module")
def bank(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    directory = tmp_path_factory.mktemp("behind-the-proxy")
    told = {**environ, "BANK_TRUSTED_PROXIES": "1", "BANK_LOG_LEVEL": "INFO"}
    with fresh_database(told, directory) as own, Bank(own, directory, web_workers=1, workers=0, scheduler=False) as bank:
        yield bank


@contextmanager
def proxy(behind: int, directory: Path, outer: str = "") -> Iterator[int]:
    """The port of an HAProxy with the settings of docker-compose.yml, but for the addresses, in front of what listens at `behind`."""
    port = free_port()
    settings = (ROOT / "docker" / "haproxy" / "api.cfg").read_text()
    for old, new in (
        (r"bind :8000$", f"bind {HOST}:{port}"),
        (r"bind :8404$", f"bind {HOST}:{free_port()}"),
        (r"server api-1 api-1:8000$", f"server api-1 {HOST}:{behind}"),
        (r"^ +server api-2 .*$", ""),
    ):
        settings, count = re.subn(old, new, settings, flags=re.MULTILINE)
        assert count == 1, old
    (directory / "haproxy.cfg").write_text(settings)
    libraries = ":".join(str(path) for path in TOOLS.glob("usr/lib/*-linux-gnu*"))
    told = {"LD_LIBRARY_PATH": libraries, "BANK_OUTER_PROXIES": outer}
    child = spawn([HAPROXY, "-db", "-f", directory / "haproxy.cfg"], env=told, log=directory / "haproxy.log")

    def ready() -> bool:
        assert child.poll() is None, (directory / "haproxy.log").read_text()
        client = Client(port)
        try:
            return client.request("GET", "/health/live").status == 200
        except OSError:
            return False
        finally:
            client.close()

    try:
        wait_until(ready, "HAProxy answers")
        yield port
    finally:
        terminate(child)


@pytest.fixture(scope="module")
def port(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with proxy(bank.port, tmp_path_factory.mktemp("proxy")) as port:
        yield port


def say(port: int, sent: bytes) -> bytes:
    """All that is answered to these bytes and no more."""
    with socket.create_connection((HOST, port), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@dataclass(frozen=True)
class Sent:
    """What is answered to bytes with a request in them that should not be one, and the path of that."""

    answer: bytes
    hidden: str

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.answer)]


def send(port: int, headers: str, body: str) -> Sent:
    """Send a request with another hidden in its body: HIDDEN in it, SIZE bytes long (in hexadecimal digits), of LENGTH for all."""
    path = f"/hidden/{secrets.token_hex(8)}"
    hidden = f"GET {path} HTTP/1.1\r\nHost: bank\r\n\r\n"
    body = body.replace("HIDDEN", hidden).replace("SIZE", f"{len(hidden):x}")
    headers = headers.replace("LENGTH", str(len(body)))
    return Sent(say(port, f"POST /api/v1/auth/refresh HTTP/1.1\r\nHost: bank\r\n{headers}\r\n{body}".encode()), path)


def asked(bank: Bank, port: int) -> str:
    """All that the bank has been asked for, up to now. What is asked now is answered as such: no answer before was one too many."""
    for _ in range(3):
        path = f"/now/{secrets.token_hex(8)}"
        client = Client(port)
        assert client.request("GET", path).json["instance"] == path
        client.close()
    log = bank.directory / "web.log"
    wait_until(lambda: path in log.read_text(), "the bank tells what it was asked for")
    return log.read_text()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        # One server goes by the one length, the other by the other.
        ("Content-Length: LENGTH\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Transfer-Encoding: chunked\r\nContent-Length: LENGTH\r\n", "0\r\n\r\nHIDDEN"),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "SIZE\r\nHIDDEN\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "SIZE\r\nHIDDEN\r\n0\r\n\r\n"),
        ("Content-Length: 0\r\nContent-Length: LENGTH\r\n", "HIDDEN"),
        ("Content-Length: LENGTH\r\nContent-Length: 0\r\n", "HIDDEN"),
        ("Content-Length: 0, LENGTH\r\n", "HIDDEN"),
        ("Content-Length: +0\r\n", "HIDDEN"),
        ("Content-Length: -1\r\n", "HIDDEN"),
        # One sees the header, the other does not.
        ("Content-Length: LENGTH\r\nTransfer-Encoding:\r\n chunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Content-Length: LENGTH\r\nX-Folded: 1\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Content-Length: LENGTH\r\nTransfer-Encoding : chunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Content-Length: LENGTH\r\nTransfer-Encoding:\x0bchunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Content-Length: LENGTH\r\nTransfer_Encoding: chunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Content-Length: LENGTH\r\nTransfer-Encoding: xchunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Content-Length: LENGTH\r\nX-Broken: 1\rTransfer-Encoding: chunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Content-Length: LENGTH\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nHIDDEN"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\nHIDDEN"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\nHIDDEN"),
        # One reads the size of a chunk in another way.
        ("Transfer-Encoding: chunked\r\n", "0x0\r\n\r\nHIDDEN"),
        ("Transfer-Encoding: chunked\r\n", "-0\r\n\r\nHIDDEN"),
        ("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n\r\nHIDDEN"),
    ],
)
def test_a_request_in_the_body_of_another_reaches_nobody(bank: Bank, port: int, headers: str, body: str) -> None:
    sent = send(port, headers, body)
    # One answer: that to the whole, or that it is refused.
    assert len(sent.statuses) == 1 and sent.statuses[0] in (400, 401, 413, 422, 501), sent.answer
    assert sent.hidden not in asked(bank, port)


def test_a_request_that_follows_another_openly_would_be_seen(bank: Bank, port: int) -> None:
    sent = send(port, "Content-Length: 0\r\n", "HIDDEN")
    assert sent.statuses == [401, 404]
    assert sent.hidden in asked(bank, port)


def seen_as(port: int, *said: str) -> str:
    """The address that the bank takes a caller for who says this in X-Forwarded-For."""
    body = json.dumps({"username": "admin", "password": ADMIN_PASSWORD})
    lines = ["POST /api/v1/auth/login HTTP/1.1", "Host: bank", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"X-Forwarded-For: {each}" for each in said]
    answer = say(port, "\r\n".join([*lines, "", body]).encode())
    client = Client(port, json.loads(answer.partition(b"\r\n\r\n")[2])["access_token"])
    (address,) = [login["address"] for login in client.get("/auth/logins").json["data"] if login["current"]]
    client.close()
    return str(address)


def test_what_a_caller_says_of_his_address_is_thrown_away(port: int) -> None:
    for said in ((), ("198.51.100.1",), ("198.51.100.1, 203.0.113.5",), ("198.51.100.1", "203.0.113.5"), ("127.0.0.2",), ("nonsense",)):
        assert seen_as(port, *said) == HOST, said


class Shown(BaseHTTPRequestHandler):
    """Answers what it is told of the caller's address."""

    def do_GET(self) -> None:
        body = json.dumps(self.headers.get_all("X-Forwarded-For")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to tell."""


@pytest.mark.parametrize(("outer", "address"), [("", HOST), (HOST, "203.0.113.5")])
def test_one_address_is_handed_on_however_many_were_said(tmp_path: Path, outer: str, address: str) -> None:
    """A bank that counts one proxy too many believes none of these then."""
    server = ThreadingHTTPServer((HOST, 0), Shown)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with proxy(server.server_port, tmp_path, outer) as port:
            client = Client(port)
            assert client.request("GET", "/", headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.5"}).json == [address]
            client.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_an_outer_proxy_has_seen_is_the_address_of_a_caller(bank: Bank, tmp_path: Path) -> None:
    with proxy(bank.port, tmp_path, outer=f"192.0.2.0/24 {HOST}") as port:
        assert seen_as(port, "203.0.113.5") == "203.0.113.5"
        # What came to it from the caller stands before what it adds itself, in the same line or in another.
        assert seen_as(port, "198.51.100.1, 203.0.113.5") == "203.0.113.5"
        assert seen_as(port, "198.51.100.1", "203.0.113.5") == "203.0.113.5"
        assert seen_as(port, "2001:db8::5") == "2001:db8::5"
        assert seen_as(port) == seen_as(port, "nonsense") == seen_as(port, "203.0.113.5, nonsense") == HOST


def test_who_is_no_outer_proxy_is_not_believed_where_there_are_some(bank: Bank, tmp_path: Path) -> None:
    with proxy(bank.port, tmp_path, outer="192.0.2.0/24 198.51.100.7") as port:
        assert seen_as(port, "203.0.113.5") == HOST
