"""Ready means that what is accepted will be posted."""

from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from bank.config import ConfigError
from bank.processing import worker


def test_a_process_that_would_fill_lanes_that_are_not_there_is_not_ready(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/health/ready").status_code == 200
    # Raised in the settings of one process, and `bank migrate` was forgotten.
    monkeypatch.setitem(app.config, "BANK", replace(app.config["BANK"], lanes=64))
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert "bank migrate" in response.json["checks"]["database"]
    with pytest.raises(ConfigError):
        worker.run(app, burst=True)
