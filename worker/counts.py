"""What a worker counts. Plain numbers: whoever adds to one does nothing else. `worker.metrics` says what they mean."""

from collections import Counter

from shared.metrics import Distribution


class Counts:
    __slots__ = (
        "appended", "appends", "attempts", "ended", "first_token", "given_up", "healed", "live", "oldest_queued_s",
        "queue_wait", "requeued", "takeovers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.appended = 0
        self.appends = Distribution()
        self.attempts = 0
        self.takeovers: Counter[tuple[str]] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()
        """How, and with which code."""
        self.given_up: Counter[tuple[str]] = Counter()
        self.healed: Counter[tuple[str]] = Counter()
        self.requeued = 0
        self.queue_wait = Distribution()
        self.first_token = Distribution()
        self.live: dict[tuple[str], int] = {}
        """As the last whole sweep of the reaper found them."""
        self.oldest_queued_s = 0.0
