"""The WSGI application: `gunicorn wsgi:app`."""

from bank import create_app

app = create_app()
