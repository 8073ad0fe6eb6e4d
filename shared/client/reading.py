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
        self.over = False
        """It is complete."""

    def take(self, event: Event) -> str:
        """What an event adds. Raises GenerationFailed, GenerationCancelled, and AnswerLost where what was handed out
        is void: another attempt began, or the log has a gap in this answer."""
        match event:
            case Said(generation=generation):
                self._inside = generation == self._generation
                self._said = False
            case Started(generation=generation):
                self._inside = generation == self._generation
                if self._inside and self._said and event.attempt > 1:
                    raise AnswerLost(f"attempt {event.attempt} of {generation} begins anew; read events() to see both")
            case TextDelta(text=text) if self._inside:
                self._said = True
                return text
            case Gap(transcript=transcript) if answer_in(transcript, self._generation) is not None:
                raise AnswerLost("a part of the answer is not in the log any more; read events(), or get()")
            case Failed(generation=generation) if generation == self._generation:
                raise GenerationFailed(generation, event.code, event.message, event.retryable)
            case Cancelled(generation=generation) if generation == self._generation:
                raise GenerationCancelled(generation)
            case Completed(generation=generation):
                self.over = generation == self._generation
        return ""
