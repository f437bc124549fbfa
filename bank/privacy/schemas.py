"""What an erasure takes."""

from bank.auth.schemas import Password
from bank.web.fields import StrictSchema


class Erase(StrictSchema):
    """Who asks for it confirms it: the user, or an admin."""

    current_password = Password(required=True)
