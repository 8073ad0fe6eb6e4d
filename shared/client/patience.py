"""How long to wait between tries, and when to give up. Pure, but for the clock and for chance, which can be given."""

import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from shared.client.errors import ClientError

CAP_S = 15.0
LEAST_S = 0.05
"""Also where a server asks for no wait at all: what fails at once must not be tried in a circle."""

Waiting = Callable[[float, ClientError], None]
"""Told before each wait: how many seconds, and why."""


class Patience:
    """Tries of one thing. `limit_s` counts from the last success; None: for ever."""

    def __init__(
        self,
        limit_s: float | None,
        base_s: float,
        *,
        told: Waiting | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.base_s = base_s
        """The first wait; later ones are longer."""
        self._limit_s = limit_s
        self._told = told
        self._clock = clock
        self._chance = chance
        self._tries = 0
        self._since = clock()

    def renewed(self) -> None:
        """It worked."""
        self._tries = 0
        self._since = self._clock()

    def wait_s(self, error: ClientError, at_least_s: float = 0.0) -> float:
        """Seconds to wait before the next try. Raises `error` where that would be too late."""
        base_s = max(self.base_s, LEAST_S)
        jittered_s = min(max(CAP_S, base_s), base_s * 2.0 ** min(self._tries, 16)) * (0.75 + self._chance() / 2)
        wait_s = max(jittered_s, at_least_s)
        if self._limit_s is not None and self._clock() - self._since + wait_s > self._limit_s:
            raise error
        self._tries += 1
        if self._told is not None:
            self._told(wait_s, error)
        return wait_s


def is_passing(status: int) -> bool:
    """Worth another try: overload, and trouble on the server's side. Every other status is an answer."""
    return status in (408, 425, 429) or status >= 500


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Of a `Retry-After` header, in seconds or as a date; 0 without one."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return 0.0
