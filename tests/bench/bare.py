"""What everything is held against: Flask with one route that does nothing, on the same gunicorn settings."""

from flask import Flask, Response

app = Flask(__name__)


@app.route("/bare", methods=["GET", "POST"])
def bare() -> Response:
    return Response(b'{"ok":true}', mimetype="application/json")


@app.route("/health/ready")
def ready() -> Response:
    return Response(b'{"status":"ok"}', mimetype="application/json")
