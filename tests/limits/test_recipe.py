"""docs/recipes/limits.md, as it is written."""

import json
import re
from pathlib import Path

from bank.limits import cel
from bank.limits.checks import Effect, LimitKind
from tests.limits.test_limits import failures

RECIPE = (Path(__file__).parents[2] / "docs" / "recipes" / "limits.md").read_text()
CALLS = re.findall(r"curl -X POST localhost:8000/api/v1(\S+) .*?-d '(.*?)'\n", RECIPE, re.DOTALL)


def table(heading: str) -> dict[str, list[str]]:
    """The rows of a table: what the first cell names, and all that the second does."""
    rows = RECIPE.split(f"| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [row.split("|")[1:3] for row in rows]
    return {first.strip(" `"): re.findall(r"`(\w+)`", second) for first, second in cells}


def test_what_it_says_can_be_done_can_be_done(chief, alice, admin, accounts, pay):
    made = []
    for path, body in CALLS:
        if path in ("/limits", "/rules"):
            answer = chief.post(path, json.loads(body))
            assert answer.status_code == 201, answer.json
            made.append(path)
    assert made == ["/limits", "/rules", "/rules", "/rules"]
    gift = pay(alice, *accounts, "1.00", metadata={"order": "gift-7"})
    held = pay(alice, *accounts, "600.00")
    assert (failures(gift), held["status"]) == (["rule_denied"], "held")
    found = admin.get("/transactions/history?review=open&status=held").json["data"]
    assert [each["id"] for each in found] == [held["id"]]
    [(path, body)] = [(path, body) for path, body in CALLS if path.endswith("/approve")]
    assert admin.post(path.replace("$PAYMENT", held["id"]), json.loads(body)).json["status"] == "completed"
    assert failures(pay(alice, *accounts, "400.01"), pay(alice, *accounts, "399.00")) == ["insufficient_funds", None]


def test_it_lists_what_there_is():
    assert table("variable | fields") == {variable: list(fields) for variable, fields in cel.DECLARED.items()}
    assert list(table("`effect` | the payment")) == [each.value for each in Effect]
    assert list(table("`kind` | says | a payment is refused as `limit_exceeded` when")) == [each.value for each in LimitKind]
