"""A session, seen from its client: where its reader is, and which turn it is about."""

from shared.client import calls, models
from shared.client.calls import Plan
from shared.client.errors import AnswerLost, GenerationCancelled, GenerationFailed, Gone
from shared.client.events import Event, Gap, Said, Started, Terminal
from shared.client.options import Options
from shared.events import State
from shared.ids import generation_number
from shared.transcript import Failure, Message, Transcript


class Place:
    """A session as its reader knows it, and what may be asked of it: what Session and AsyncSession have in common."""

    def __init__(self, options: Options, sid: str, cursor: str | None = None) -> None:
        self.options = options
        self.id = sid
        self.cursor = cursor
        """Id of the last event that was handed out; None: none yet. Store it, to go on in another process."""
        self.generation = ""
        """The newest that was heard of here; empty: none yet."""
        self.stream_token: str | None = None
        """Lets a browser follow this session, for some minutes; None where nobody is asked who they are."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.generation or '?'} at {self.cursor or 'the start'}>"

    def heard(self, event: Event) -> None:
        """Take what an event says of generations. A log that lost its end counts again from there."""
        if isinstance(event, Said | Started | Terminal):
            self.began(event.generation)
        elif isinstance(event, Gap) and event.transcript.messages:
            newest = event.transcript.messages[-1].generation
            self.began(newest, whatever=event.reason == "lost")

    def began(self, generation: str, *, whatever: bool = False) -> None:
        """Events come later than an answer that knew more."""
        if generation and (whatever or number(generation) > number(self.generation)):
            self.generation = generation

    # -- plans

    def opening(self, what: models.Opening) -> Plan[None]:
        opened = yield from calls.open_session(what, self.options.patience())
        self.id, self.generation, self.stream_token = opened.id, opened.generation, opened.stream_token

    def saying(self, input_: str | None, what: models.NextTurn) -> Plan[None]:
        opened = yield from calls.say(self.id, input_, what, self.options.patience())
        self.began(opened.generation)

    def showing(self) -> Plan[models.Shown]:
        shown = yield from calls.show(self.id, self.options.patience())
        self.began(shown.generation)
        return shown

    def stopping(self, wait_s: float) -> Plan[models.Stopped]:
        """Without a name a repeat of the call would hit a later generation than the one that was meant."""
        generation = yield from self.naming()
        return (yield from calls.stop(self.id, generation, wait_s, self.options.patience()))

    def answering(self, question: str, text: str) -> Plan[None]:
        yield from calls.answer(self.id, question, text, self.options.patience())

    def deleting(self) -> Plan[None]:
        yield from calls.delete(self.id, self.options.patience())

    def naming(self) -> Plan[str]:
        """The generation this is about; asked for where none was heard of."""
        if not self.generation:
            yield from self.showing()
        return self.generation

    def concluding(self, generation: str) -> Plan[Message]:
        """A generation's message, once that is over. Raises what `Text.take` raises, and Gone where the log is."""
        shown = yield from calls.show(self.id, self.options.patience())
        message = answer_in(Transcript(messages=shown.messages), generation)
        if message is None and shown.expired:
            raise Gone(410, "session_expired", f"the log of session {self.id!r} has expired")
        if message is None or message.state not in (State.COMPLETED, State.FAILED, State.CANCELLED):
            raise AnswerLost(f"the log of session {self.id!r} has no end of {generation}")
        if message.state == State.FAILED:
            failure = message.error or Failure(code="unknown")
            raise GenerationFailed(generation, failure.code, failure.message, failure.retryable)
        if message.state == State.CANCELLED:
            raise GenerationCancelled(generation)
        if message.attempt is None:  # no start in the log: nor, perhaps, what followed it
            raise AnswerLost(f"the log of session {self.id!r} has lost the beginning of {generation}")
        return message


def answer_in(transcript: Transcript, generation: str) -> Message | None:
    said = (m for m in reversed(transcript.messages) if m.role == "assistant" and m.generation == generation)
    return next(said, None)


def number(generation: str) -> int:
    """`g3` → 3; 0 for none."""
    return generation_number(generation) if generation else 0
