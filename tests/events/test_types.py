"""Events are a promise for ever: what was stored in any version can be read, and no shape changes without a new version."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import orjson
import pytest

from bank.events import types
from bank.events.types import NAMES, TYPES, UPCASTERS, Happened, TransactionCompleted, UnknownEventError, load

# One event for each type and version that was ever released, as it is stored: <type>.<version>.json. They are never changed.
EXAMPLES = sorted((Path(__file__).parent / "examples").iterdir())


def stored(type: str, schema: int) -> dict:
    return json.loads((Path(__file__).parent / "examples" / f"{type}.{schema}.json").read_text())


def test_every_version_of_every_type_has_an_example_and_its_upcaster() -> None:
    versions = {(name, schema) for name in NAMES for schema in range(1, TYPES[name].SCHEMA + 1)}
    assert {(path.name.split(".")[0], int(path.name.split(".")[1])) for path in EXAMPLES} == versions
    assert UPCASTERS.keys() == {(name, schema) for name, schema in versions if schema < TYPES[name].SCHEMA}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_can_be_loaded(path: Path) -> None:
    example = json.loads(path.read_text())
    assert path.stem == f"{example['type']}.{example['schema']}"
    event = load(**example)
    assert type(event) is TYPES[example["type"]]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_today_comes_back_as_it_was(name: str) -> None:
    example = stored(name, TYPES[name].SCHEMA)
    event = load(**example)
    assert json.loads(orjson.dumps(event)) == example["data"]
    assert load(name, event.SCHEMA, orjson.loads(orjson.dumps(event))) == event


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_does_not_change_without_a_new_version(name: str) -> None:
    assert list(stored(name, TYPES[name].SCHEMA)["data"]) == [field.name for field in fields(TYPES[name])]


def test_entries_are_tuples_as_their_type_says() -> None:
    event = load(**stored("TransactionCompleted", 1))
    assert isinstance(event, TransactionCompleted)
    assert type(event.entries) is tuple and {type(entry) for entry in event.entries} == {tuple}
    assert hash(event)


@dataclass(frozen=True, slots=True)
class Greeted(Happened):
    """In its third version it has a language, since the second a name in two parts."""

    SCHEMA: ClassVar[int] = 3

    first: str
    last: str
    language: str


@pytest.fixture
def greeted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(types.TYPES, "Greeted", Greeted)
    monkeypatch.setitem(types.UPCASTERS, ("Greeted", 1), lambda data: dict(zip(("first", "last"), data["name"].split(), strict=True)))
    monkeypatch.setitem(types.UPCASTERS, ("Greeted", 2), lambda data: {**data, "language": "en"})


@pytest.mark.usefixtures("greeted")
@pytest.mark.parametrize(
    ("schema", "data", "language"),
    [
        (1, {"name": "Ada Lovelace"}, "en"),
        (2, {"first": "Ada", "last": "Lovelace"}, "en"),
        (3, {"first": "Ada", "last": "Lovelace", "language": "fr"}, "fr"),
    ],
)
def test_an_old_shape_goes_through_the_upcasters_of_the_versions_in_between(schema: int, data: dict, language: str) -> None:
    given = dict(data)
    assert load("Greeted", schema, data) == Greeted("Ada", "Lovelace", language)
    assert data == given


@pytest.mark.usefixtures("greeted")
@pytest.mark.parametrize(
    ("type", "schema", "data"),
    [
        ("Greeted", 4, {"first": "Ada", "last": "Lovelace", "language": "fr"}),
        ("Greeted", 0, {"name": "Ada Lovelace"}),
        ("Greeted", 3, {"first": "Ada"}),
        ("Greeted", 3, {"first": "Ada", "last": "Lovelace", "language": "fr", "title": "Countess"}),
        ("TransactionCompleted", 1, {"entries": [["a", 1]]}),
        ("TransactionCompleted", 1, {}),
        ("AccountChanged", 1, ["what"]),
        ("Waved", 1, {}),
        ("Happened", 1, {}),
        ("Origin", 1, {}),
    ],
)
def test_what_this_bank_cannot_read_is_an_error_that_names_it(type: str, schema: int, data: dict) -> None:
    with pytest.raises(UnknownEventError, match=f"{type} of version {schema}"):
        load(type, schema, data)
