"""How far each follower of the log has read."""

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base


class Position(Base):
    """A follower, and the position up to which its effects are there."""

    __tablename__ = "followers"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
