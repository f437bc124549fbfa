"""When transfers come by themselves, in plain Python: the model of schedules and their runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.properties.ledger import Transaction
from tests.properties.limits import Limited

MISSED_AFTER = 5 / 60
MOST_RUNS = 10
RETRY_AFTER = 1.0


@dataclass(eq=False)
class Run:
    """`look_at`: from then on, and after those whose unit of work was before."""

    due: float
    attempts: int
    transaction: Transaction | None
    look_at: tuple[float, int] | None


@dataclass(eq=False)
class Schedule:
    """`times` are all that its rule gives; `coming` those still to be run."""

    source: int
    target: int
    body: Mapping[str, Any]
    times: Sequence[float]
    coming: Sequence[float]
    status: str = "active"
    runs: list[Run] = field(default_factory=list)


class Calendar(Limited):
    """The ledger, and what is to come. A tick is what the scheduler does every two seconds."""

    def __init__(self, own: Mapping[tuple[str, int], int]) -> None:
        super().__init__(own)
        self.schedules: list[Schedule] = []
        self._units = 0

    def tick(self) -> None:
        """Run what is due, what is longest due first; then try again what failed and may be."""
        while due := sorted((it for it in self.schedules if it.coming and it.coming[0] <= self.now), key=lambda it: it.coming[0]):
            self._units += 1
            for it in due:
                times = [at for at in it.coming if at <= self.now][:MOST_RUNS]
                it.coming = it.coming[len(times) :]
                it.status = it.status if it.coming else "finished"
                for at in times:
                    it.runs.append(Run(at, 0, None, None))
                    if not (it.body["skips"] and self.now - at > MISSED_AFTER):
                        self._try(it, it.runs[-1])
            self._retry()
        self._retry()

    def _try(self, it: Schedule, run: Run) -> None:
        run.attempts += 1
        run.transaction = self.submit("transfer", it.source, it.target, it.body, schedule=it)
        run.look_at = self._later() if run.attempts < it.body["attempts"] else None

    def _later(self) -> tuple[float, int]:
        return self.now + RETRY_AFTER, self._units

    def _retry(self) -> None:
        self._units += 1
        looks = [(it, run) for it in self.schedules for run in it.runs if run.look_at is not None and run.look_at[0] <= self.now]
        for it, run in sorted(looks, key=lambda look: (look[1].look_at, look[1].due)):
            if it.status in ("paused", "deleted") or run.transaction.status not in ("pending", "failed"):
                run.look_at = None
            elif run.transaction.status == "pending":
                run.look_at = self._later()
            else:
                self._try(it, run)
