"""Random mixes of what moves at once: credits, debits, transfers, batches, and the way back of each."""

from typing import Any

import pytest
from hypothesis import given

from tests.properties.acts import explore, scripts
from tests.properties.conftest import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIX = scripts("credit", "debit", *["transfer", "rollback", "batch"] * 2, "open", "change", "again", "post", "pass")


@explore
@given(script=MIX)
def test_what_moves_at_once(runs: Runs, script: list[Any]) -> None:
    runs.run(script)
