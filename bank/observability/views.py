"""`/admin`: what the bank is doing, for those who run it."""

from flask import Response
from marshmallow import Schema, fields

from bank.auth.guard import login_required
from bank.observability import stats
from bank.users.models import Role
from bank.web.api import Blueprint
from bank.web.body import json_response

blp = Blueprint("admin", __name__, url_prefix="/api/v1/admin", description="For those who run the bank.")


class LaneAnswer(Schema):
    """What waits in one lane."""

    lane = fields.Integer()
    pending = fields.Integer()
    oldest_seconds = fields.Float()


class QueueAnswer(Schema):
    """What waits to be posted."""

    pending = fields.Integer()
    oldest_seconds = fields.Float()
    lanes = fields.List(fields.Nested(LaneAnswer))


class StatsAnswer(Schema):
    """What all processes have done since they started."""

    accepted = fields.Dict(keys=fields.String(), values=fields.Integer())
    posted = fields.Dict(keys=fields.String(), values=fields.Integer())
    failed = fields.Dict(keys=fields.String(), values=fields.Integer())
    volume = fields.Dict(keys=fields.String(), values=fields.String())
    batches = fields.Integer()
    mean_batch = fields.Float()
    largest_batch = fields.Integer()
    queue = fields.Nested(QueueAnswer)
    processes = fields.List(fields.String(), metadata={"example": ["web-4711"]})


@blp.route("/stats", methods=["GET"])
@login_required(Role.ADMIN, Role.AUDITOR)
@blp.response(200, StatsAnswer)
def read_stats() -> Response:
    """Read the counters of all processes, and the queue

    Admins and auditors. Counters begin with their process, `queue` is what waits now.
    """
    return json_response(stats.gather())
