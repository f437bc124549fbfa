"""Somebody who looks at the console: by forms and a cookie, as their browser would."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import PASSWORD, Person

# What a browser says of a form of our own.
OWN = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Visitor:
    """A person with a browser of their own."""

    person: Person
    browser: FlaskClient

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.browser.get(f"/console{path}", **kwargs)

    def read(self, path: str) -> str:
        """The page, which must be there."""
        response = self.get(path, follow_redirects=True)
        assert response.status_code == 200, response.text
        return response.text

    def hidden(self, path: str) -> dict[str, str]:
        """What the form of a page sends along."""
        return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', self.read(path)))

    def send(self, path: str, **fields: str) -> TestResponse:
        """Fill in the form of a page and send it."""
        return self.browser.post(f"/console{path}", data={**self.hidden(path), **fields}, headers=OWN)


def log_in(app: Flask, person: Person, **fields: str) -> tuple[FlaskClient, TestResponse]:
    """A browser in which somebody has filled in the login, and the answer."""
    browser = app.test_client()
    given = {"username": person.username, "password": PASSWORD, **fields}
    return browser, browser.post("/console/login", data=given, headers=OWN)


@pytest.fixture
def visit(app: Flask) -> Callable[[Person], Visitor]:
    """Log somebody in to the console."""

    def visit(person: Person) -> Visitor:
        browser, response = log_in(app, person)
        assert response.status_code == 303, response.text
        return Visitor(person, browser)

    return visit
