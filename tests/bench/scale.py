"""How much of a scenario is run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    share: float
    """Of the readers and sessions that a scenario is about."""
    seconds: float
    """One window of measuring."""
    rounds: int
    """Windows of each server, which take turns."""

    def of(self, count: int) -> int:
        return max(1, round(count * self.share))


FULL = Scale(1.0, 4.0, 5)
QUICK = Scale(0.2, 1.5, 3)
"""To see that everything works, and about where the figures lie."""
