"""Random mixes of transfers to come, and of what else happens until they do."""

from typing import Any

import pytest
from hypothesis import given

from tests.properties.acts import explore, scripts
from tests.properties.conftest import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIX = scripts(
    "schedule", "schedule", "reschedule", "pass", "pass", "pass", "post", "transfer", "credit", "rollback", "hold", "change", "again"
)


@explore
@given(script=MIX)
def test_what_comes_again(runs: Runs, script: list[Any]) -> None:
    runs.run(script)
