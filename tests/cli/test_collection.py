"""`bank collection` writes every call, and what it writes can be sent."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from bank.cli import main
from bank.cli.collection import bruno, document


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return document()


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("collection") / "new"
    done = CliRunner(env={"DATABASE_URL": "", "REDIS_URL": ""}).invoke(main, ["collection", "--output", str(output)])
    assert done.exit_code == 0, done.output
    return dict(json.loads((output / "bank.postman_collection.json").read_text()))


def items(collection: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for folder in collection["item"]:
        for item in folder["item"]:
            yield folder["name"], item


def variables(text: str) -> set[str]:
    return set(re.findall(r"\{\{(\w+)\}\}", text))


def test_it_has_what_the_schema_of_v2_1_demands(collection) -> None:
    """The required members and the closed lists of schema.getpostman.com/json/collection/v2.1.0, as far as we write them."""
    assert collection["info"]["schema"] == "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
    assert collection["info"]["name"] and isinstance(collection["item"], list)
    assert all(each.keys() >= {"key"} for each in collection["variable"])
    for _, item in items(collection):
        request = item["request"]
        assert item["name"] and request["method"] in {"GET", "POST", "PUT", "PATCH", "DELETE"}
        assert all(isinstance(header["key"], str) and isinstance(header["value"], str) for header in request["header"])
        assert request["url"].keys() <= {"raw", "host", "path", "query"} and isinstance(request["url"]["raw"], str)
        assert request.get("auth", {"type": "bearer"})["type"] in {"noauth", "bearer"}
        assert request.get("body", {"mode": "raw"})["mode"] == "raw"
        for event in item.get("event", []):
            assert event["listen"] in {"test", "prerequest"} and event["script"]["type"] == "text/javascript"


def test_it_has_every_operation_in_the_folder_of_its_tag(collection, spec) -> None:
    found = [
        (folder, item["request"]["method"], "/" + "/".join(item["request"]["url"]["path"]).replace("{{", "{").replace("}}", "}"))
        for folder, item in items(collection)
    ]
    operations = [
        (operation["tags"][0], method.upper(), path)
        for path, methods in spec["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    ]
    assert sorted(found) == sorted(operations)


def test_every_variable_is_declared_and_no_id_of_an_example_is_left(collection, spec) -> None:
    text = json.dumps(collection)
    declared = {each["key"] for each in collection["variable"]}
    assert variables(text) <= declared
    assert "019b2f6e-8a00" not in text
    files = bruno(spec, "http://localhost:8000")
    assert variables("".join(files.values())) <= set(re.findall(r"^  (\w+):", files["environments/local.bru"], re.MULTILINE))
    assert len(files) == len(list(items(collection))) + 2
    assert all(text.count("{") == text.count("}") for text in files.values())


def test_what_it_says_can_be_sent_and_a_login_keeps_its_token(client, collection) -> None:
    kept: dict[str, str] = {}

    def filled(text: str) -> str:
        return re.sub(r"\{\{(\$?\w+)\}\}", lambda found: kept.get(found[1], found[0]), text)

    def send(path: str, **changes: str) -> Any:
        [item] = [item for _, item in items(collection) if item["request"]["url"]["raw"] == "{{base_url}}/api/v1" + path]
        request = item["request"]
        headers = {header["key"]: filled(header["value"]) for header in request["header"]}
        auth = request.get("auth", collection["auth"])
        if auth["type"] == "bearer":
            headers["Authorization"] = "Bearer " + filled(auth["bearer"][0]["value"])
        body = json.dumps(json.loads(request["body"]["raw"]) | changes) if "body" in request else None
        url = filled(request["url"]["raw"]).removeprefix("{{base_url}}")
        answer = client.open(url, method=request["method"], headers=headers, data=body)
        assert answer.status_code < 300, answer.json
        # What the script of the item does, in its own words.
        for line in [line for event in item.get("event", []) for line in event["script"]["exec"]]:
            for variable, member in re.findall(r'collectionVariables\.set\("(\w+)", answer\.(\w+)\)', line):
                kept[variable] = answer.json[member]
        return answer.json

    name = {"username": "of-the-collection"}
    send("/auth/register", email="of-the-collection@example.com", **name)
    send("/auth/login", **name)
    assert send("/auth/me")["id"] == kept["user_id"]
    before = kept["access_token"]
    send("/auth/refresh")
    assert kept["access_token"] != before
    assert send("/auth/me")["username"] == "of-the-collection"
