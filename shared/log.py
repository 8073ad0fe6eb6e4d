"""The log: every change of a session's keys, each one script in `lua/`. For questions see `shared.reading`."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import NoScriptError

from shared import keys, scripts, staging
from shared.compaction import event_of
from shared.errors import (
    GenerationRunning,
    HoldfastError,
    IdempotencyMismatch,
    NotTheGeneration,
    QuestionGone,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
)
from shared.events import Event, State, encode
from shared.ids import EventId, epoch_jump
from shared.reading import Reading, view_of
from shared.together import Lanes, Together
from shared.topology.cluster import Cluster
from shared.tracing import FIELD as TRACE
from shared.views import TOOLS, SessionView


@dataclass(frozen=True)
class Opened:
    """A turn that was opened, now or by an earlier call with the same nonce."""

    generation: str
    last: EventId
    fresh: bool
    interrupted: str = ""
    """The worker that must let go of the generation this turn has ended; nothing where none was running."""


@dataclass(frozen=True)
class Claimed:
    epoch: int
    attempt: int


@dataclass(frozen=True)
class Stopped:
    outcome: str
    """`cancelled` (was queued), `stopping` (its worker must do it), or `done` (was over)."""
    generation: str
    worker: str = ""
    state: State = State.CANCELLED


@dataclass(frozen=True)
class Reaped:
    requeued: bool
    """True: queued for the next attempt. False: it got its verdict."""
    epoch: int
    generation: str


@dataclass(frozen=True)
class Retention:
    log_ms: int
    """How long the log outlives its newest generation."""
    tombstone_ms: int
    """How much longer the session hash lives, to say *expired* rather than *unknown*."""


class Appended(tuple[str, Any, str, str]):
    """Outcome of an append: `(outcome, value, stop, answer)`; see generation_append.lua."""

    __slots__ = ()


def body_hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Log(Reading):
    """Verbs on sessions. One per process.

    Every method may raise redis.exceptions.RedisError. All of them may be repeated after a lost reply with the same
    nonce or token, and then answer the same.
    """

    def __init__(self, redis: Any, retention: Retention) -> None:
        super().__init__(redis)
        self._retention = retention
        self._append = _appends(redis)

    # -- turns

    async def create(
        self,
        sid: str,
        nonce: str,
        body: str,
        messages: Sequence[Mapping[str, Any]],
        fields: Mapping[str, str],
    ) -> Opened:
        """Open a session. `messages` are data of `message` events, at least one; `fields` go into the hash.

        Raises SessionExists, SessionDeleted, IdempotencyMismatch.
        """
        data = [encode({"generation": "g1", **message}) for message in messages]
        reply = await self._run(
            "session_create", sid, nonce, body, epoch_jump(), len(data), *data, *_flat(fields)
        )  # fmt: skip
        return _opened(sid, reply)

    async def message(
        self,
        sid: str,
        nonce: str,
        body: str,
        message: Mapping[str, Any],
        fields: Mapping[str, str],
        *,
        more: Sequence[Mapping[str, Any]] = (),
        interrupt_by: str = "",
    ) -> Opened:
        """Open the next turn, with one message and perhaps `more`. With `interrupt_by`, a generation that runs is ended
        in the same step, by that name: its worker is fenced, and what it had said so far stays.

        Raises SessionNotFound, SessionExpired, IdempotencyMismatch, and GenerationRunning where it may not interrupt.
        """
        cancelled = encode({"by": interrupt_by, "confirmed": False}) if interrupt_by else b""
        data = [encode(each) for each in (message, *more)]
        reply = await self._run(
            "session_message", sid, nonce, body, epoch_jump(), cancelled, len(data), *data, *_flat(fields)
        )  # fmt: skip
        return _opened(sid, reply)

    async def stop(self, sid: str, by: str, generation: str) -> Stopped:
        """Ask a generation to stop. `""` means whichever runs, also when a late duplicate of this arrives.

        Raises SessionNotFound, NotTheGeneration.
        """
        data = encode({"by": by, "confirmed": True})
        reply = await self._run("generation_stop", sid, generation, epoch_jump(), data, *self._lives(), by)
        match reply:
            case [b"CANCELLED", _, current]:
                return Stopped("cancelled", current.decode())
            case [b"STOPPING", worker, current]:
                return Stopped("stopping", current.decode(), worker.decode(), State.RUNNING)
            case [b"DONE", state, current]:
                return Stopped("done", current.decode(), state=State(state.decode()))
            case [b"OTHER", _, current]:
                raise NotTheGeneration(generation, current.decode())
        raise _refused(sid, reply)

    async def stopped_by(self, sid: str, generation: str) -> str:
        """Who was the first to ask this generation to stop; nothing where nobody is known to have."""
        stop, by = await self._redis.hmget(keys.session(sid), "stop", "stop_by")
        return by.decode() if by and stop == generation.encode() else ""

    async def answer(self, sid: str, nonce: str, question: str, text: str, by: str) -> str:
        """Answer the open question; gives the worker to tell. Raises SessionNotFound, QuestionGone."""
        answer = encode({"nonce": nonce, "question": question, "text": text, "by": by})
        reply = await self._run("question_answer", sid, nonce, question, answer)
        if reply[0] == b"OK":
            return str(reply[1].decode())
        raise QuestionGone(question) if reply[0] == b"GONE" else _refused(sid, reply)

    async def answer_of(self, sid: str, question: str) -> tuple[int, str]:
        """Redis' clock in ms, then the answer stored for this open question, or nothing."""
        async with self._redis.pipeline(transaction=False) as pipe:  # the clock first: what is there later was in time
            pipe.time()
            pipe.hmget(keys.session(sid), "question", "answer")
            (seconds, micros), (open_question, answer) = await pipe.execute()
        found = answer.decode() if answer and open_question == question.encode() else ""
        return seconds * 1000 + micros // 1000, found

    async def delete(self, sid: str) -> str:
        """Forget a session; gives the worker that must stop, or nothing. Raises SessionNotFound."""
        reply = await self._run("session_delete", sid, self._retention.tombstone_ms)
        if reply[0] != b"OK":
            raise _refused(sid, reply)
        return str(reply[1].decode())

    # -- the pen

    async def claim(self, sid: str, token: str, generation: str, worker: str) -> Claimed | None:
        """Take the pen of a queued generation; None if it is not there to be taken."""
        reply = await self._run("generation_claim", sid, token, generation, worker, epoch_jump())
        return Claimed(int(reply[1]), int(reply[2])) if reply[0] == b"OK" else None

    async def claim_and_read(
        self, sid: str, token: str, generation: str, worker: str, page: int = 1000
    ) -> tuple[Claimed | None, SessionView | None, list[Event]]:
        """`claim`, and right after it the session and its whole log, deltas joined where they are stored so: one round
        trip where that fits into a page."""
        verb = "generation_claim"
        arguments = (3, *keys.session_keys(sid), token, generation, worker, epoch_jump())
        for how, script in (("EVALSHA", scripts.digest(verb)), ("EVAL", scripts.source(verb))):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.execute_command(how, script, *arguments)
                for command in view_of(sid):
                    pipe.execute_command(*command)
                pipe.xrange(keys.events(sid), count=page)
                pipe.hmget(keys.session(sid), TOOLS, TRACE)
                replies = await pipe.execute(raise_on_error=False)
            if not isinstance(replies[0], NoScriptError):  # a server that was restarted, or another one
                break
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        claimed, values, exists, entries, (tools, trace) = replies
        if claimed[0] != b"OK":
            return None, None, []
        events = [event_of(*entry) for entry in entries]
        found = events if len(entries) < page else await self.events(sid, joined=True)
        view = SessionView.of(values, bool(exists))
        whole = view and replace(view, tools=(tools or b"").decode(), trace=(trace or b"").decode())
        return Claimed(int(claimed[1]), int(claimed[2])), whole, found

    async def append(
        self, sid: str, token: str, epoch: int, first: int, batch: Sequence[tuple[str, bytes]]
    ) -> Appended:
        """Append `batch` (type, data) as seq `first` and on. Gives the script's outcome; never raises for one."""
        flat = [part for entry in batch for part in entry]
        reply = await self._append(keys.session_keys(sid), token, epoch, first, *self._lives(), *flat)
        outcome, value, stop, answer = (*reply, b"", b"", b"")[:4]
        number = value if isinstance(value, int) else value.decode()
        return Appended((outcome.decode(), number, stop.decode(), answer.decode()))

    async def release(self, sid: str, token: str) -> list[str]:
        """Give the generation back to the queue. Gives the script's outcome: see generation_release.lua."""
        return [part.decode() for part in await self._run("generation_release", sid, token)]

    async def reap(self, sid: str, judged_epoch: int, max_crashes: int, min_age_ms: int) -> Reaped | None:
        """Verdict on a generation whose worker is gone; None if there is nothing to judge (any more)."""
        failed = encode(_failure("worker_lost", "the worker was lost and no attempt is left", retryable=True))
        cancelled = encode({"by": "reaper", "confirmed": False})
        reply = await self._run(
            "generation_reap", sid, judged_epoch, max_crashes, min_age_ms, epoch_jump(), failed, cancelled,
            *self._lives(),
        )  # fmt: skip
        match reply:
            case [b"QUEUED", epoch, generation]:
                return Reaped(True, int(epoch), generation.decode())
            case [b"ENDED", _, generation]:
                return Reaped(False, judged_epoch, generation.decode())
        return None

    async def abandon(self, sid: str, judged_epoch: int, min_age_ms: int) -> bool:
        """End a generation that no worker took in time; False if it is not queued (any more)."""
        failed = encode(_failure("queue_timeout", "no worker took the generation in time", retryable=True))
        reply = await self._run(
            "generation_abandon", sid, judged_epoch, min_age_ms, epoch_jump(), failed, *self._lives()
        )  # fmt: skip
        return bool(reply[0] == b"ENDED")

    # -- storing

    async def compact(self, sid: str) -> bool:
        """Store the deltas of a session that is over joined; nothing that a reader is sent changes by it.

        False: it gains nothing, or the session has gone on.
        """
        view = await self.view(sid)
        if view is None or view.live or not view.log_exists:
            return False
        return await staging.compact(self._redis, sid, view.last)

    # -- inside

    def _lives(self) -> tuple[int, int]:
        return self._retention.log_ms, self._retention.tombstone_ms

    async def _run(self, verb: str, sid: str, *args: scripts.Argument) -> list[Any]:
        return await scripts.run(self._redis, verb, keys.session_keys(sid), *args)


def _appends(redis: Any) -> Callable[..., Awaitable[list[Any]]]:
    """Many generations append at the same moment: they share round trips, in a Cluster those to their master."""
    return (Lanes if isinstance(redis, Cluster) else Together)(redis, "generation_append").run


def _failure(code: str, message: str, *, retryable: bool) -> dict[str, Any]:
    return {"code": code, "message": message, "retryable": retryable}


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]


def _opened(sid: str, reply: list[Any]) -> Opened:
    if reply[0] != b"OK":
        raise _refused(sid, reply)
    interrupted = reply[4].decode() if len(reply) > 4 else ""
    return Opened(reply[1].decode(), EventId.parse(reply[2].decode()), bool(reply[3]), interrupted)


def _refused(sid: str, reply: list[Any]) -> HoldfastError:
    match reply:
        case [b"EXISTS"]:
            return SessionExists(sid)
        case [b"DELETED"]:
            return SessionDeleted(sid)
        case [b"OTHER_BODY"]:
            return IdempotencyMismatch()
        case [b"UNKNOWN"]:
            return SessionNotFound(sid)
        case [b"EXPIRED"]:
            return SessionExpired(sid)
        case [b"RUNNING", generation]:
            return GenerationRunning(generation.decode())
    return HoldfastError(f"unexpected outcome of a script: {reply!r}")
