"""Rules as expressions of CEL: checked when they are written, evaluated by a library when money moves.

The library (`common-expression-language`, in Rust) parses and evaluates, and knows no types before it has values. So an expression is
read here first, and refused unless it is of the part of CEL that is described below: then every name in it is there, every type
fits, and nothing in it can run for long, as there are no loops (macros), no regular expressions and no text that grows.

The library is given `transaction.amount` as a variable `transaction_amount`, in an expression that is written so: taking over an
object costs it several times what all its fields do, and fifty times what asking does.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

MAX_LENGTH = 1_000

# Parentheses, lists, arguments and conditions within each other. The library's parser calls itself for each.
_MAX_NESTING = 20

# What ids, names and words are written as, and whole numbers: minor units, hours, days.
_TEXT, _INT, _BOOL, _MAP = "string", "int", "bool", "map"

DECLARED: dict[str, dict[str, str]] = {
    "transaction": {
        "type": _TEXT,
        "amount": _INT,
        "currency": _TEXT,
        "hold": _BOOL,
        "from_account_id": _TEXT,
        "to_account_id": _TEXT,
        "to_user_id": _TEXT,
        "description": _TEXT,
        "reference": _TEXT,
        "metadata": _MAP,
        "hour": _INT,
        "weekday": _INT,
    },
    "account": {
        "id": _TEXT,
        "currency": _TEXT,
        "balance": _INT,
        "held": _INT,
        "available": _INT,
        "overdraft_limit": _INT,
    },
    "user": {"id": _TEXT, "username": _TEXT, "role": _TEXT, "age_days": _INT},
}
"""What an expression may name. `account` and `user` are those that pay. Amounts are minor units; `hour` is 0 to 23 and `weekday` 1
(Monday) to 7, both in UTC; what there is none of is an empty string, as is the user that money for the outside reaches."""

Field = tuple[str, str]
"""A variable and its field."""

_WORD = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<float>[0-9]*\.[0-9]+([eE][+-]?[0-9]+)? | [0-9]+\.?[eE][+-]?[0-9]+)
      | (?P<int>(0x[0-9a-fA-F]+|[0-9]+)(?![\w.]))
      | (?P<text>"(\\.|[^"\\\n])*" | '(\\.|[^'\\\n])*')
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>\|\||&&|[<>=!]=|[<>!?:+\-*/%()\[\].,])""",
    re.VERBOSE | re.ASCII,
)

_MACROS = {"all", "exists", "exists_one", "map", "filter"}
_COMPARED = {"<", "<=", ">", ">="}
_RELATIONS = {*_COMPARED, "==", "!=", "in"}
_ORDERED = {_INT, _TEXT}
_METHODS = {"startsWith", "endsWith", "contains"}


class InvalidExpression(ValueError):
    """The expression is none, or none that a rule may be. The text says where and why."""


class NotEvaluated(Exception):
    """A sound expression came to no answer: a key that is not there, a division by zero, a number out of range."""


class Values:
    """The values that expressions are asked about: each field that one of them reads must have been set.

    For many payments in turn. What is as it was for the one before is not handed over again: taking over a text costs the library
    as much as asking four rules.
    """

    def __init__(self) -> None:
        self._known: dict[Field, Any] = {}
        # The library's own; None until there is something to hand over.
        self._context: Any = None

    def set(self, field: Field, value: Any) -> None:
        """Let a field have this value."""
        if field in self._known and self._known[field] == value:
            return
        if self._context is None:
            self._context = _library().Context()
        self._context.add_variable(_FLAT[field], value)
        self._known[field] = value

    def answer(self, execute: Callable[[Any], Any]) -> Any:
        """What a program of the library comes to. Raises what that raises."""
        return execute(self._context)


@dataclass(frozen=True, slots=True)
class Expression:
    """A sound expression, and the fields that it reads."""

    source: str
    fields: frozenset[Field]
    _execute: Callable[[Any], Any]

    def holds(self, values: Values) -> bool:
        """Whether it is true of these values. Raises NotEvaluated."""
        try:
            answer = values.answer(self._execute)
        except Exception as error:
            # The library has no error of its own: a missing key is a KeyError, a number out of range an OverflowError, and more.
            raise NotEvaluated(f"{type(error).__name__}: {error}") from error
        if not isinstance(answer, bool):
            raise NotEvaluated(f"It came to {type(answer).__name__}.")
        return answer


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a rule that was sound when it was written, and is none by this version of the bank or its library."""

    why: str
    fields: frozenset[Field] = frozenset()

    def holds(self, values: Values) -> bool:
        """Raises NotEvaluated."""
        raise NotEvaluated(self.why)


@cache
def _library() -> Any:
    # Only when there are rules: it brings a command line with it, which takes a second to import.
    import cel

    return cel


_FLAT = {(variable, name): f"{variable}_{name}" for variable, fields in DECLARED.items() for name in fields}


@lru_cache(maxsize=1_000)
def parse(source: str) -> Expression:
    """The expression that is written in `source`. Raises InvalidExpression."""
    if len(source) > MAX_LENGTH:
        raise InvalidExpression(f"Longer than {MAX_LENGTH} characters.")
    reader = _Reader(source)
    found = reader.condition()
    reader.expect("end")
    if found != _BOOL:
        raise InvalidExpression(f"Must be true or false, and is {found}.")
    try:
        program = _library().compile(reader.flattened())
    except ValueError as error:
        raise InvalidExpression(f"Not an expression of CEL: {error}") from None
    return Expression(source, frozenset(reader.fields), program.execute)


class _Reader:
    """Reads an expression by CEL's grammar, and finds the type of each part. The position is that of the word at hand."""

    def __init__(self, source: str) -> None:
        self.fields: set[Field] = set()
        # Where a field is read, from one place of the source to another, and what is written there for the library.
        self._read: list[tuple[int, int, str]] = []
        self._source = source
        self._words = _words(source)
        self._at = 0
        self._depth = 0

    @property
    def _word(self) -> str:
        return self._words[self._at][1]

    @property
    def _kind(self) -> str:
        return self._words[self._at][0]

    def _fail(self, message: str, at: int | None = None) -> InvalidExpression:
        return InvalidExpression(f"At character {self._words[self._at if at is None else at][2] + 1}: {message}")

    def _next(self) -> str:
        word = self._word
        self._at += 1
        return word

    def _accept(self, *words: str) -> str | None:
        return self._next() if self._word in words else None

    def expect(self, word: str) -> None:
        """Go past this word. Raises InvalidExpression where another stands."""
        if word == "end":
            if self._kind != "end":
                raise self._fail(f"`{self._word}` cannot stand here.")
        elif self._accept(word) is None:
            raise self._fail(f"`{word}` is missing here.")

    def _want(self, found: str, wanted: str, at: int) -> None:
        if found != wanted:
            raise self._fail(f"This must be {wanted}, and is {found}.", at)

    def flattened(self) -> str:
        """What was read, with a variable of its own for each field."""
        parts, end = [], 0
        for begin, behind, name in self._read:
            parts += [self._source[end:begin], name]
            end = behind
        return "".join([*parts, self._source[end:]])

    def condition(self) -> str:
        """A ternary, or what binds closer."""
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise self._fail(f"Nested deeper than {_MAX_NESTING}.")
        begin = self._at
        found = self._either()
        if self._accept("?"):
            self._want(found, _BOOL, begin)
            found = self._either()
            self.expect(":")
            at = self._at
            self._want(self.condition(), found, at)
        self._depth -= 1
        return found

    def _either(self) -> str:
        return self._joined("||", lambda: self._joined("&&", self._relation))

    def _joined(self, mark: str, part: Callable[[], str]) -> str:
        begin = self._at
        found = part()
        while self._accept(mark):
            self._want(found, _BOOL, begin)
            at = self._at
            self._want(part(), _BOOL, at)
        return found

    def _relation(self) -> str:
        found = self._sum()
        while mark := self._accept(*_RELATIONS):
            at = self._at
            other = self._sum()
            if mark == "in":
                self._member(found, other, at)
            elif other != found:
                raise self._fail(f"{found} is compared with {other}.", at)
            elif found not in _ORDERED and (found != _BOOL or mark in _COMPARED):
                raise self._fail(f"{found} cannot be compared so.", at)
            found = _BOOL
        return found

    def _member(self, found: str, container: str, at: int) -> None:
        if container not in (f"list of {found}", "empty list") and not (container == _MAP and found == _TEXT):
            raise self._fail(f"There is no {found} in {container}.", at)

    def _sum(self) -> str:
        return self._arithmetic(("+", "-"), lambda: self._arithmetic(("*", "/", "%"), self._unary))

    def _arithmetic(self, marks: tuple[str, ...], part: Callable[[], str]) -> str:
        at = self._at
        found = part()
        while self._accept(*marks):
            # Only numbers: texts that are put together could grow.
            self._want(found, _INT, at)
            at = self._at
            self._want(part(), _INT, at)
        return found

    def _unary(self) -> str:
        mark = self._accept("!", "-")
        at = self._at
        if mark and self._word in ("!", "-"):
            raise self._fail(f"`{mark}` needs parentheses before `{self._word}`.")
        found = self._postfix()
        if mark:
            self._want(found, _BOOL if mark == "!" else _INT, at)
        return found

    def _postfix(self) -> str:
        found = self._primary()
        while mark := self._accept(".", "["):
            at = self._at
            if mark == "[":
                found = self._index(found, at)
            elif self._kind != "name":
                raise self._fail("A name is missing here.")
            else:
                name = self._next()
                found = self._call(found, name, at) if self._accept("(") else self._field(found, name, at)
        return found

    def _index(self, found: str, at: int) -> str:
        self._want(self.condition(), _TEXT, at)
        self.expect("]")
        self._want(found, _MAP, at - 1)
        return _TEXT

    def _field(self, found: str, name: str, at: int) -> str:
        if found == _MAP:
            return _TEXT
        if found not in DECLARED:
            raise self._fail(f"{found} has no fields.", at)
        if name not in DECLARED[found]:
            raise self._fail(f"`{found}` has no `{name}`; it has {', '.join(DECLARED[found])}.", at)
        self.fields.add((found, name))
        # Two words before the name stands the variable.
        self._read.append((self._words[at - 2][2], self._words[at][2] + len(name), _FLAT[found, name]))
        return DECLARED[found][name]

    def _call(self, found: str, name: str, at: int) -> str:
        if name == "size":
            self._sized(found, at)
        elif name in _METHODS:
            self._want(found, _TEXT, at)
            begin = self._at
            self._want(self.condition(), _TEXT, begin)
        else:
            raise self._no_function(name, at)
        self.expect(")")
        return _INT if name == "size" else _BOOL

    def _no_function(self, name: str, at: int) -> InvalidExpression:
        why = "is a macro, and rules have no loops" if name in _MACROS else "is no function of rules"
        return self._fail(f"`{name}` {why}; there are size, has, {', '.join(sorted(_METHODS))}.", at)

    def _sized(self, found: str, at: int) -> None:
        if found not in (_TEXT, _MAP) and "list" not in found:
            raise self._fail(f"{found} has no size.", at)

    def _primary(self) -> str:
        at, kind = self._at, self._kind
        word = self._next()
        if kind == "int":
            if int(word, 0 if word.startswith("0x") else 10) >= 2**63:
                raise self._fail("The number is out of range.", at)
            return _INT
        if kind == "text":
            return _TEXT
        if word == "(":
            found = self.condition()
            self.expect(")")
            return found
        if word == "[":
            return self._list()
        if kind == "name":
            return self._named(word, at)
        raise self._fail("Something is missing here." if kind == "end" else f"`{word}` cannot stand here.", at)

    def _list(self) -> str:
        if self._accept("]"):
            return "empty list"
        at = self._at
        kind = self.condition()
        if kind not in (_INT, _TEXT, _BOOL):
            raise self._fail(f"A list cannot hold {kind}.", at)
        while self._accept(","):
            at = self._at
            self._want(self.condition(), kind, at)
        self.expect("]")
        return f"list of {kind}"

    def _named(self, word: str, at: int) -> str:
        if word in ("true", "false"):
            return _BOOL
        if word in ("has", "size") and self._accept("("):
            begin = self._at
            found = self.condition()
            if word == "size":
                self._sized(found, begin)
            elif self._words[self._at - 2][1] != "." or found != _TEXT or self._words[self._at - 3][1] != "metadata":
                raise self._fail("`has` asks for a key of the metadata, as in has(transaction.metadata.key).", begin)
            self.expect(")")
            return _INT if word == "size" else _BOOL
        if self._word == "(":
            raise self._no_function(word, at)
        if word not in DECLARED:
            raise self._fail(f"There is no `{word}`; there are {', '.join(DECLARED)}.", at)
        return word


def _words(source: str) -> list[tuple[str, str, int]]:
    """The words of the source, each its kind, its text and where it begins; the last is the end."""
    words, at = [], 0
    while at < len(source):
        match = _WORD.match(source, at)
        if match is None:
            raise InvalidExpression(f"At character {at + 1}: `{source[at]}` cannot stand here.")
        kind = str(match.lastgroup)
        if kind == "float":
            raise InvalidExpression(f"At character {at + 1}: amounts are whole minor units; there are no other numbers.")
        if kind != "space":
            words.append((kind, match[0], at))
        at = match.end()
    return [*words, ("end", "the end", len(source))]
