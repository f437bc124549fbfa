"""What looks like SQL, or like a pattern, in a filter that takes any text is a text that nothing is called."""

from urllib.parse import quote

import pytest

from tests.conftest import Person

TEXTS = (
    "' OR 1=1 --",
    "' OR '1'='1",
    "'; DROP TABLE users; --",
    "' UNION SELECT password_hash FROM users --",
    '" OR ""="',
    "\\' OR 1=1 --",
    "$$ OR 1=1 --",
    "%(user_id)s",
    ":user_id",
    "%",
    "_" * 5,
    "%%",
    "\\",
    "*",
    "') OR pg_sleep(5) IS NULL --",
)


@pytest.mark.parametrize("path", ["/users?q=", "/transactions/history?reference=", "/transactions/history?request_id="])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_in_a_filter_is_only_a_text(admin: Person, path: str, text: str) -> None:
    answer = admin.get(path + quote(text))
    if answer.status_code != 422:
        assert (answer.status_code, answer.json["data"]) == (200, [])
    assert admin.get("/users").json["data"]


@pytest.mark.parametrize("name", ["sort", "order", "order_by", "fields"])
def test_no_list_is_sorted_or_cut_by_what_a_caller_names(admin: Person, name: str) -> None:
    for path in ("/users", "/accounts", "/transactions/history", "/events", "/audit-logs", "/schedules", "/limits", "/rules"):
        answer = admin.get(f"{path}?{name}=id;DROP+TABLE+users")
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, f"/{name}")
