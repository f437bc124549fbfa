"""Requests that the bank itself makes go where its operator said, nowhere else and not inside, and end in time."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flask import Flask

from bank.errors import Unavailable
from bank.fx import jobs, provider
from bank.fx.provider import EuropeanCentralBank
from tests.processes import HOST


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the machine that tests is not meant."""
    for name in ("https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server of this machine speaks TLS by, with a certificate that is trusted here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bank tests")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST)), x509.DNSName("rates.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


Answer = Callable[[BaseHTTPRequestHandler], None]
Serve = Callable[[Answer], tuple[int, list[str]]]


@pytest.fixture
def serve(tls: ssl.SSLContext) -> Iterator[Serve]:
    """Start a server that answers so; its port, and the paths that it is asked for."""

    @contextmanager
    def running(answer: Answer) -> Iterator[tuple[int, list[str]]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing to tell."""

        server = HTTPServer((HOST, 0), Handler)
        # In `accept` it would keep the server from ending, where somebody connects and says nothing.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()
        server.server_close()

    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(running(answer))


def refused(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def test_a_redirect_is_not_followed(serve: Serve) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        # As it could to any server inside.
        handler.send_response(302)
        handler.send_header("Location", "/inside")
        handler.end_headers()

    port, asked = serve(redirect)
    with pytest.raises(Unavailable, match="302"):
        EuropeanCentralBank(f"https://{HOST}:{port}/rates").days_after(None)
    assert asked == ["/rates"]


def test_a_certificate_of_another_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    port, asked = serve(refused)
    named(monkeypatch, HOST)
    with pytest.raises(Unavailable, match="404"):
        EuropeanCentralBank(f"https://rates.example:{port}/rates").days_after(None)
    with pytest.raises(Unavailable, match="certificate"):
        EuropeanCentralBank(f"https://other.example:{port}/rates").days_after(None)
    assert asked == ["/rates"]


def drips(into: bytes) -> Answer:
    """An answer that begins so and goes on by a byte now and then, each in good time; until nobody listens, or for five seconds."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(into)
            for _ in range(100):
                handler.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            handler.close_connection = True

    return drip


@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 OK\r\nX-Drop: ", b"HTTP/1.1 200 OK\r\nContent-Length: 700000\r\n\r\n"], ids=["in a header", "in the body"]
)
def test_a_server_that_drips_is_given_up_at_the_same_time_as_a_silent_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    port, _ = serve(drips(begin))
    monkeypatch.setattr(provider, "_TIMEOUT_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"did not come in time|timed out"):
        EuropeanCentralBank(f"https://{HOST}:{port}/rates").days_after(None)
    assert 0.5 <= time.monotonic() - started < 2


def test_a_server_that_never_shakes_hands_is_given_up(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_TIMEOUT_SECONDS", 0.3)
    with socket.create_server((HOST, 0)) as silent, pytest.raises(Unavailable, match="timed out"):
        EuropeanCentralBank(f"https://{HOST}:{silent.getsockname()[1]}/rates").days_after(None)


def named(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses, and be asked for once: the next one who asks would get another answer."""
    real = socket.getaddrinfo

    def found(host: str, port: int, *how: int, **more: int) -> list[object]:
        if host[0].isdigit() or ":" in host:
            return [*real(host, port, *how, **more)]
        return [each for address in addresses for each in real(address, port, *how, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["172.16.0.1"],
        ["192.168.1.1"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["::1"],
        ["fe80::1"],
        ["fd00::1"],
        ["::ffff:127.0.0.1"],
        # One of several is one too many: which of them answers is not ours to say.
        ["198.41.0.4", "10.0.0.1"],
    ],
)
def test_an_address_inside_is_refused_before_it_is_connected_to(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    connected: list[object] = []

    def connect(address: object, *_: object, **__: object) -> socket.socket:
        connected.append(address)
        raise OSError("nobody there")

    named(monkeypatch, *addresses)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Unavailable, match="inside"):
        EuropeanCentralBank("https://rates.example/hist.zip", outside_only=True).days_after(None)
    assert connected == []


def test_what_is_connected_to_is_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[object] = []

    def connect(address: object, *_: object, **__: object) -> socket.socket:
        connected.append(address)
        raise OSError("nobody there")

    named(monkeypatch, "198.41.0.4", "2001:500:1::53")
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Unavailable, match="nobody there"):
        EuropeanCentralBank("https://rates.example/hist.zip", outside_only=True).days_after(None)
    assert connected == [("198.41.0.4", 443), ("2001:500:1::53", 443)]


def test_a_proxy_may_be_inside(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{HOST}:{proxy.getsockname()[1]}")
        monkeypatch.setattr(provider, "_TIMEOUT_SECONDS", 5)
        heard: list[bytes] = []

        def answer() -> None:
            connection, _ = proxy.accept()
            with connection:
                heard.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unavailable, match="403"):
            EuropeanCentralBank("https://rates.example/hist.zip", outside_only=True).days_after(None)
        thread.join()
    assert heard[0].startswith(b"CONNECT rates.example:443 ")


@pytest.mark.parametrize(("env", "outside_only"), [("production", True), ("development", False)])
def test_production_asks_outside_alone(app: Flask, context: None, monkeypatch: pytest.MonkeyPatch, env: str, outside_only: bool) -> None:
    monkeypatch.setitem(app.config, "BANK", replace(app.config["BANK"], env=env, fx_url="https://rates.example/hist.zip"))
    asked: list[tuple[object, ...]] = []

    def download(*how: object) -> bytes:
        asked.append(how)
        raise OSError("far away")

    monkeypatch.setattr(provider, "_download", download)
    with pytest.raises(Unavailable):
        jobs.refresh_rates()
    assert asked == [("https://rates.example/hist.zip", outside_only)]
