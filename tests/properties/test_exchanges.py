"""Random mixes of exchanges, at the rate of today or by a quote, and the way back of each."""

from typing import Any

import pytest
from hypothesis import given

from tests.properties.acts import explore, scripts
from tests.properties.conftest import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIX = scripts(
    *["exchange", "quote", "by quote", "rollback"] * 3, "publish", "transfer", "batch", "schedule", "change", "again", "post", "pass"
)


@explore
@given(script=MIX)
def test_what_is_exchanged(runs: Runs, script: list[Any]) -> None:
    runs.run(script)
