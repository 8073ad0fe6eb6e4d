"""One line in the log when Redis goes away, and one when it is back, however many generations notice."""

import time

from shared.telemetry import get_logger

_log = get_logger(__name__)


class Outage:
    """What one worker knows of one Redis. Begins with the first party that fails, and ends when all who failed have
    had an answer or have gone."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._failing: set[object] = set()
        self._since = 0.0
        """Meaningful while somebody fails."""

    def failed(self, who: object, error: Exception) -> None:
        if not self._failing:
            self._since = time.monotonic()
            _log.warning("Redis fails; going on as soon as it is back", of=self._of, error=str(error))
        self._failing.add(who)

    def passed(self, who: object) -> None:
        if who in self._failing:
            self._failing.discard(who)
            if not self._failing:
                _log.warning("Redis is back", of=self._of, after_s=round(time.monotonic() - self._since, 1))

    def left(self, who: object) -> None:
        """It will not ask again; whether Redis is back is not known by that."""
        self._failing.discard(who)
