"""The words of one answer, out of the events of a session."""

from shared.client.errors import AnswerLost, GenerationCancelled, GenerationFailed
from shared.client.events import Cancelled, Completed, Event, Failed, Gap, Said, Started, TextDelta
from shared.client.place import answer_in


class Text:
    """The text of one generation, as it comes. Words that were handed out cannot be taken back: see `take`."""

    def __init__(self, generation: str, cursor: str | None) -> None:
        self._generation = generation
        self._inside = cursor not in (None, "0-0")
        """What is said is this generation's. A cursor that was kept is in the middle of it, or at the end before."""
        self._said = self._inside
        """Something of it may have been handed out."""
        self._holed = False
        """Whose words come next is not known: the log has a gap, and no generation began after it."""
        self.over = False
        """It is complete."""

    def take(self, event: Event) -> str:
        """What an event adds. Raises GenerationFailed, GenerationCancelled, and AnswerLost where what was handed out
        is void, since another attempt began, or where the log has a gap in this answer."""
        match event:
            case Said(generation=generation):
                self._turn_to(generation)
                self._said = False
            case Started(generation=generation):
                self._turn_to(generation)
                if self._inside and self._said and event.attempt > 1:
                    raise AnswerLost(f"attempt {event.attempt} of {generation} begins anew; read events() to see both")
            case TextDelta(text=text) if self._inside and not self._holed:
                self._said = True
                return text
            case Gap():
                return self._over_gap(event)
            case Failed(generation=generation) if generation == self._generation:
                raise GenerationFailed(generation, event.code, event.message, event.retryable)
            case Cancelled(generation=generation) if generation == self._generation:
                raise GenerationCancelled(generation)
            case Completed(generation=generation) if generation == self._generation:
                if self._holed:
                    raise _lost()
                self.over = True
        return ""

    def _turn_to(self, generation: str) -> None:
        self._inside = generation == self._generation
        self._holed = False

    def _over_gap(self, gap: Gap) -> str:
        """The transcript may have all of the answer so far: that is as good, if none of it was handed out before."""
        found = answer_in(gap.transcript, self._generation)
        if found is not None and found.attempt is not None and not self._said:
            self._turn_to(self._generation)
            self._said = True
            return found.content
        if found is not None or self._said:
            raise _lost()
        self._holed = True
        return ""


def _lost() -> AnswerLost:
    return AnswerLost("a part of the answer is not in the log any more; events() and get() have what there is")
