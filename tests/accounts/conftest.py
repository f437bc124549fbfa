"""What became of a transaction, for tests of accounts."""

from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.conftest import Person


@pytest.fixture
def outcome_of(post_all: Callable[[], None]) -> Callable[[Person, TestResponse], dict[str, Any]]:
    """Post what waits, and read what became of an accepted transaction."""

    def read(who: Person, accepted: TestResponse) -> dict[str, Any]:
        assert accepted.status_code == 202, accepted.text
        post_all()
        return dict(who.get(f"/transactions/{accepted.json['id']}").json)

    return read
