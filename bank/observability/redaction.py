"""What must not be in a log: secrets, tokens, passwords and whole email addresses are taken out of every line."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

HIDDEN = "***"

# Names, or parts of names, whose value is never shown.
_NAME = r"password|passwd|pwd|secret|token|authorization|cookie|credential|api[_-]?key|seal[_-]?key|private[_-]?key"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)

# What any of the rules below begins with. Most of what is logged has none of it, and is looked through once.
_SUSPICIOUS = re.compile(rf"@|%40|://|eyJ|\$argon2|bearer|basic |\[parameters|failing row|{_NAME}", re.IGNORECASE)

# An id, or a number: no rule finds anything in it, and most texts of the lines that a drain writes by the hundred are one.
_PLAIN = re.compile(r"[0-9a-f.-]*")

# All of a row that PostgreSQL tells of, which cuts each value after 64 bytes: to the next line that SQLAlchemy, PostgreSQL or Python wrote.
_ROW = r"(?:[^\n]|\n(?!\[SQL|CONTEXT:|STATEMENT:|Traceback|  File )){0,16384}"

# Every repetition has an end, or a long text that almost fits would take a time that grows with its square.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # Who is let in by a URL. A password may hold anything, an @ included, so all up to the last one goes.
    (re.compile(r"://(?:[^\s/@:]{0,64}:\S{0,512}|[^\s/@:]{1,512})@"), f"://{HIDDEN}@"),
    # What SQLAlchemy bound to a statement, and the row that PostgreSQL refused.
    (re.compile(r"\[parameters:[^\n]*", re.IGNORECASE), f"[parameters: {HIDDEN}]"),
    # A value may have line breaks, brackets, or be cut off, so the row goes up to where something of another kind begins.
    (re.compile(rf"(failing row contains )\({_ROW}", re.IGNORECASE), rf"\1({HIDDEN})"),
    # A name and its value, in a query string, a header, JSON, Python, or JSON that was quoted once more. A value without quotes ends
    # where a list would go on: a password may have spaces.
    (
        re.compile(
            rf"((?:{_NAME})[\w.-]{{0,64}}(?:\\{{0,8}}[\"'])?\s{{0,8}}(?:=|:|%3D|%3A)\s{{0,8}})"
            r"(?:\\{1,8}\".{0,1024}?\\{1,8}\"|b?\"(?:[^\"\\]|\\.)*\"?|b?'(?:[^'\\]|\\.)*'?|[^,;&)}\]\n]+)",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"eyJ[\w-]{5,}(?:\.[\w-]*){0,2}"), HIDDEN),
    (re.compile(r"\$argon2[^\s'\")]*"), HIDDEN),
    # The first letter and the domain stay, by which an operator who has the address in front of him knows it again.
    (re.compile(r"([\w!#$&'+?^{|}~%.-])[\w!#$&'+=?^{|}~%.-]{0,64}(@|%40)([\w-]+(?:\.[\w-]+)*)"), rf"\1{HIDDEN}\2\3"),
)

# What nests deeper is a mistake, and its text says enough.
_DEEPEST = 6


@lru_cache(maxsize=1_000)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


class Redactor:
    """A processor of structlog that takes out of a line what must not be in it. `secrets` are hidden wherever they stand."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first, or the rest of a secret that begins with another would be left. What is shorter is a word.
        known = sorted({secret for secret in secrets if len(secret) >= 6}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, logger: Any, method: str, event: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._of(name, value, 0) for name, value in event.items()}

    def text(self, text: str) -> str:
        """`text` without what must not be seen."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        if not _PLAIN.fullmatch(text) and _SUSPICIOUS.search(text):
            for pattern, instead in _RULES:
                text = pattern.sub(instead, text)
        return text

    def _of(self, name: str, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            # No number is a secret here, and how many tokens there are may be told.
            return value
        if _is_secret(name):
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if depth < _DEEPEST and isinstance(value, Mapping):
            return {self.text(str(key)): self._of(str(key), each, depth + 1) for key, each in value.items()}
        if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
            return [self._of("", each, depth + 1) for each in value]
        # Now and not by the renderer, which comes after.
        return self.text(repr(value))


def passwords(urls: Iterable[str]) -> set[str]:
    """The passwords in these URLs, as they stand there and as they are meant."""
    found = {urlsplit(url).password or "" for url in urls}
    return found | {unquote(password) for password in found}
