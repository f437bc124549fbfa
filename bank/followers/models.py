"""How far each follower of the log has read."""

from datetime import datetime

from sqlalchemy import BigInteger, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Instant


class Position(Base):
    """A follower, and the position up to which its effects are there."""

    __tablename__ = "followers"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # When it last went on; a follower with nothing to read stays as it is.
    moved_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
