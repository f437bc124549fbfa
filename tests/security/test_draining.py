"""Many who take from one account at once never take more than is there."""

import threading
from collections.abc import Callable

from flask import Flask

from tests.conftest import Person


def test_50_at_once_take_what_is_there_and_not_a_cent_more(
    app: Flask, alice: Person, bob: Person, funded: Callable[..., str], post_all: Callable[[], None]
) -> None:
    account = funded(alice, "100.00")
    barrier, answers = threading.Barrier(50), []

    def take() -> None:
        body = {"from_account_id": account, "to_user_id": bob.id, "amount": "9.00", "currency": "USD"}
        barrier.wait()
        headers = {"Authorization": f"Bearer {alice.token}"}
        answers.append(app.test_client().post("/api/v1/transactions/transfer", json=body, headers=headers))

    threads = [threading.Thread(target=take) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    post_all()
    # Who finds no free connection in time is told so; nobody is told anything else.
    assert {answer.status_code for answer in answers} <= {202, 503}
    accepted = [answer.json["id"] for answer in answers if answer.status_code == 202]
    assert len(accepted) > 11
    found = [alice.get(f"/transactions/{each}").json["status"] for each in accepted]
    assert (found.count("completed"), found.count("failed")) == (11, len(accepted) - 11)
    (balance,) = alice.get(f"/balances/current?account_id={account}").json["data"]
    assert balance["amount"] == "1.00"
