"""`/fx`: rates, quotes, and what the bank is exposed to."""

from datetime import UTC, datetime
from typing import Any

from flask import Response

from bank.auth.guard import MOVERS, login_required, origin, principal
from bank.fx import schemas, service
from bank.resilience.cache import cache
from bank.users.models import Role
from bank.web.api import Blueprint
from bank.web.body import json_response

blp = Blueprint("fx", __name__, url_prefix="/api/v1/fx", description="Rates, quotes, and what the bank is exposed to.")


@blp.route("/rates", methods=["GET"])
@login_required()
@blp.arguments(schemas.RatesQuery(), location="query")
@blp.response(200, schemas.RatesAnswer)
def list_rates(query: dict[str, Any]) -> Response:
    """List the rates that count on a day

    Of each currency the newest that was published for that day, or for one of the days before while that still counts: on a
    Sunday those of Friday. A currency that has none is left out. Rates between two others go by way of the euro.
    """
    day = query.get("date") or datetime.now(UTC).date()
    return json_response({"base": service.BASE, "data": cache().read("rates", day.isoformat())})


@blp.route("/rates", methods=["POST"])
@login_required(Role.ADMIN)
@blp.arguments(schemas.PublishRate(), example={"currency": "KES", "rate": "144.35"})
@blp.response(201, schemas.PublishedRate, example={"currency": "KES", "rate": "144.35", "source": "admin"})
def publish_rate(body: dict[str, Any]) -> Response:
    """Publish a rate of the bank's own

    It counts before the provider's of the same day, and before those that were published earlier; nothing is overwritten.
    """
    published = service.publish(body["currency"], body["rate"], body.get("date"), origin())
    cache().forget("rates")
    return json_response({"base": service.BASE, **published}, 201)


@blp.route("/quotes", methods=["POST"])
@login_required(*MOVERS)
@blp.arguments(schemas.AskQuote(), example={"amount": "100.00", "currency": "USD", "to_currency": "EUR"})
@blp.response(201, schemas.QuoteAnswer)
@blp.problem(422, "Not valid; `errors` names each place. `rate_unavailable`: nobody has published a rate, or none that is new enough.")
@blp.problem(
    503, "`rates_too_old`: nothing has been published for days, so that no rate may be used. Or a part that is needed is out of reach."
)
def ask_quote(body: dict[str, Any]) -> Response:
    """Get a firm rate for half a minute

    For one transfer of this amount by the caller, who names it by `quote_id`. It reserves nothing.
    """
    return json_response(service.quote(principal().id, body["minor"], body["currency"], body["to_currency"]), 201)


@blp.route("/position", methods=["GET"])
@login_required(Role.TELLER, Role.AUDITOR, Role.ADMIN)
@blp.response(200, schemas.PositionsAnswer)
def read_position() -> Response:
    """See what the bank is exposed to

    What exchanges have brought the bank in each currency and taken, and what that is worth at today's published rates.
    """
    return json_response(service.position())
