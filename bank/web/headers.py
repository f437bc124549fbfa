"""What every answer tells a browser, and whoever else keeps answers: to guess nothing, to run nothing, and to show it to nobody else."""

from flask import Flask, Response, request

# An answer of the API is no page: nothing may be loaded or run in its name, and no page may frame it (OWASP, REST Security).
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

EXPOSED = [
    *("Age", "Bank-Position", "ETag", "Idempotent-Replayed", "Link", "Location", "Preference-Applied", "Retry-After", "X-Request-ID"),
    *("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
]
"""What the pages of an origin that is let in may read besides what they always may (Fetch, 3.3.3)."""

# A year. Not for subdomains: whose these are is not the bank's to say.
_BY_HTTPS_ALONE = "max-age=31536000"


def init_app(app: Flask) -> None:
    """Put them on every answer that does not say otherwise itself, as pages do. To be called before what else looks at answers:
    Flask asks the first to come last."""
    app.after_request(_protect)


def _protect(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    # One that has an ETag may be kept by who asked, who then asks whether it is still so (RFC 9111, 5.2.2); any other by nobody.
    asked_again = request.method in ("GET", "HEAD") and "ETag" in response.headers
    response.headers.setdefault("Cache-Control", "private, no-cache" if asked_again else "no-store")
    # By HTTP it would say nothing (RFC 6797, 7.2). Whether it was HTTPS is what the trusted proxies tell.
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", _BY_HTTPS_ALONE)
    return response
