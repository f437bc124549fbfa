"""What an erasure takes."""

from bank.auth.schemas import Password
from bank.web.fields import StrictSchema


class Erase(StrictSchema):
    """Who erases themselves confirms it."""

    current_password = Password()
