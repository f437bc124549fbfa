"""The OpenAPI document at `/openapi.json` and Swagger UI at `/docs`, served from our own files: no CDN."""

from pathlib import Path
from typing import Any

import swagger_ui_bundle
from flask import Flask, Response, send_from_directory

from bank.config import Config
from bank.web.limits import limiter

_FILES = next((Path(swagger_ui_bundle.__file__).parent / "vendor").glob("swagger-ui-*"))

_PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>bank · API</title>
    <link rel="icon" href="/docs/favicon-32x32.png">
    <link rel="stylesheet" href="/docs/swagger-ui.css">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/start.js"></script>
  </body>
</html>
"""

# In a file of its own, so that a content security policy can refuse inline scripts.
_START = """SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true});
"""


# Swagger UI has icons in its styles; what it tries out is sent to us alone.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def settings(config: Config) -> dict[str, Any]:
    """flask-smorest's part of Flask's configuration. It serves the document, or does not where it has no address."""
    return {
        "API_TITLE": "bank",
        "API_VERSION": "v1",
        # Swagger UI's bundle reads 3.0.
        "OPENAPI_VERSION": "3.0.3",
        "OPENAPI_URL_PREFIX": "/" if config.has_docs else None,
        "OPENAPI_JSON_PATH": "openapi.json",
        "API_SPEC_OPTIONS": {
            "info": {"description": "Double-entry money: credit, debit, transfer, roll back, and read what was when."},
            "components": {"securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}},
        },
    }


def init_app(app: Flask, config: Config) -> None:
    """Serve Swagger UI, where there is something to show."""
    if not config.has_docs:
        return
    app.add_url_rule("/docs", "docs.page", limiter.exempt(_page))
    app.add_url_rule("/docs/start.js", "docs.start", limiter.exempt(_start))
    app.add_url_rule("/docs/<path:name>", "docs.file", limiter.exempt(_file))


def _page() -> Response:
    return Response(_PAGE, mimetype="text/html", headers={"Content-Security-Policy": _POLICY})


def _start() -> Response:
    return Response(_START, mimetype="text/javascript")


def _file(name: str) -> Response:
    return send_from_directory(_FILES, name, max_age=86_400)
