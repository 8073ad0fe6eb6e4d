"""Runs at a provider that go on by themselves: the log names them, so that the next attempt finds them again."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.events import Event, EventType
from worker.pipelines.questions import of_generation

Say = Callable[[EventType, Mapping[str, Any]], None]


class RemoteRuns:
    """Those of one attempt.

    They are known by what was asked (`call`, a digest of the request) and how often it was asked before in the same
    attempt: a pipeline that comes to another request than the attempt before is not given an answer to the old one.
    """

    def __init__(self, earlier: Mapping[tuple[str, int], str], say: Say) -> None:
        self.goes_on = False
        """The next attempt will go on with what is open: leave it running. Set before the pipeline is cancelled."""
        self.stray = False
        """A run could not be ended at its provider: it goes on there, for nobody."""
        self.open = 0
        """How many run at this moment."""
        self._earlier = earlier
        self._say = say
        self._asked: Counter[str] = Counter()

    @classmethod
    def of(cls, events: Sequence[Event], generation: str, say: Say) -> "RemoteRuns":
        """With those of earlier attempts, from the log; the newest attempt that knew one counts."""
        earlier: dict[tuple[str, int], str] = {}
        asked: Counter[str] = Counter()
        for event in of_generation(events, generation):
            if event.type == EventType.STARTED:
                asked.clear()
            elif event.type == EventType.PROVIDER_RUN:
                call = event.value["call"]
                earlier[call, asked[call]] = event.value["id"]
                asked[call] += 1
        return cls(earlier, say)

    def ask(self, call: str) -> str | None:
        """The run of an earlier attempt that answers this call, if there is one."""
        place = (call, self._asked[call])
        self._asked[call] += 1
        return self._earlier.get(place)

    def began(self, call: str, run: str) -> None:
        """Say in the log which run answers the call."""
        self._say(EventType.PROVIDER_RUN, {"call": call, "id": run})
