"""Whether this process goes on answering, or has been asked to stop: what would hold an answer back for long asks it."""

from collections.abc import Callable

LOOK_SECONDS = 0.5
"""How often to ask."""

_serving: list[Callable[[], bool]] = []


def ends_with(alive: Callable[[], bool]) -> None:
    """Let everything that waits for more end once `alive` says no."""
    _serving.append(alive)


def serving() -> bool:
    """Whether this process goes on."""
    return all(alive() for alive in _serving)
