"""The bank as it runs: the scheduler rings, the slow worker fetches."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.processes import Bank, fresh_database, wait_until


@pytest.mark.slow
def test_a_bank_that_is_started_takes_in_the_rates_it_was_installed_with(environ: Mapping[str, str], tmp_path: Path) -> None:
    with fresh_database({**environ, "BANK_FX_MAX_AGE_DAYS": "99999"}, tmp_path) as own, Bank(own, tmp_path, slow_worker=True) as bank:
        client = bank.client(bank.log_in())
        # The oldest come first, and may be as old as they like here.
        wait_until(lambda: client.get("/fx/rates").json["data"], "the first rates are taken in", 90)
        first = {row["currency"]: row["rate"] for row in client.get("/fx/rates?date=1999-01-04").json["data"]}
        assert (first["USD"], first["JPY"]) == ("1.1789", "133.73")
        assert client.post("/fx/quotes", {"amount": "10.00", "currency": "USD", "to_currency": "JPY"}).status == 201
