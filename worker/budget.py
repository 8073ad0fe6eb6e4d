"""What all writers of a worker keep in memory together."""

from collections.abc import Callable

ENTRY_BYTES = 100
"""What keeping an event costs beside its data."""


class Share:
    """What one generation keeps. Given back when nobody needs to say its events again."""

    def __init__(self, budget: "Budget", on_excess: Callable[[], None]) -> None:
        self._budget = budget
        self.on_excess = on_excess
        self.bytes = 0

    def add(self, count: int) -> None:
        self._budget.add(self, count)

    def give_back(self) -> None:
        """May be called twice."""
        self._budget.drop(self)


class Budget:
    """Where all of them together keep more than `limit_bytes`, the one that keeps most is told to end, and so on until
    the rest fits. A share that was told no longer counts: its memory is about to be free."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._total = 0
        self._shares: dict[Share, None] = {}

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return self._total

    def share(self, on_excess: Callable[[], None]) -> Share:
        share = Share(self, on_excess)
        self._shares[share] = None
        return share

    def add(self, share: Share, count: int) -> None:
        share.bytes += count
        if share not in self._shares:
            return
        self._total += count
        while self._total > self._limit:
            largest = max(reversed(self._shares), key=lambda one: one.bytes)  # of equals, the newest
            self.drop(largest)
            largest.on_excess()

    def drop(self, share: Share) -> None:
        if share in self._shares:
            del self._shares[share]
            self._total -= share.bytes
