"""Random mixes of everything that moves money, done to the bank and to a model of it."""

from typing import Any

import pytest
from hypothesis import given

from tests.properties.acts import asks, explore, others, scripts
from tests.properties.conftest import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIX = scripts(*asks, *others)


@explore
@given(script=MIX)
def test_everything(runs: Runs, script: list[Any]) -> None:
    runs.run(script)
