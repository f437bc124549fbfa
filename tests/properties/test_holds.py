"""Random mixes of what is held, taken, let go, and spent beside it."""

from typing import Any

import pytest
from hypothesis import given

from tests.properties.acts import explore, scripts
from tests.properties.conftest import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIX = scripts(
    "hold", "hold", "hold", "capture", "capture", "capture", "void", "rollback", "debit", "batch", "change", "again", "pass", "pass"
)


@explore
@given(script=MIX)
def test_what_is_held(runs: Runs, script: list[Any]) -> None:
    runs.run(script)
