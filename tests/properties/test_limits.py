"""Random mixes of payments, and of limits and rules for them."""

from typing import Any

import pytest
from hypothesis import given

from tests.properties.acts import explore, scripts
from tests.properties.conftest import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIX = scripts(
    "limit", "limit", "limit", "unset", "rule", *["transfer", "debit", "hold"] * 3, "capture", "rollback", "batch", "pass", "exchange"
)


@explore
@given(script=MIX)
def test_what_is_limited(runs: Runs, script: list[Any]) -> None:
    runs.run(script)
