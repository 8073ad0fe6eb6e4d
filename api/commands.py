"""What a caller may do to sessions: checks, the change in the log, then the word to queue or worker."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic_core import to_json

from api import schemas
from api.node import Node, Principal, now_ms
from shared.errors import InvalidRequest, NotTheGeneration, SessionNotFound
from shared.events import encode
from shared.ids import EventId, generation_before, new_session_id, new_token
from shared.log import Opened, body_hash
from shared.log import Stopped as StopOutcome
from shared.models import check_model
from shared.redis import RedisError
from shared.telemetry import get_logger
from shared.tracing import FIELD as TRACE
from shared.tracing import NOTHING, Span, here, inside
from shared.views import TOOLS, SessionView

_log = get_logger(__name__)

FORGET_MARGIN_MS = 86_400_000


class Commands:
    """One caller's commands on one node."""

    def __init__(self, node: Node, caller: Principal, by: str = "user") -> None:
        """`by`: who stops, as the log is to say it."""
        self._node = node
        self._caller = caller
        self._by = by

    async def view(self, sid: str) -> SessionView:
        """Raises SessionNotFound, also for a session of somebody else: an id is no capability."""
        view = await self._node.log.view(sid)
        if view is None or view.principal != self._caller:
            raise SessionNotFound(sid)
        return view

    async def create(self, body: schemas.CreateSession, key: str | None) -> tuple[str, Opened]:
        check_model(body.model, self._node.settings.models)
        messages = self._said(body.opening)
        nonce = self._nonce(key)
        sid = body.id or (nonce[:32] if key else new_session_id())
        fields = {
            "model": body.model,
            "pipeline": body.pipeline,
            "options": _json(body.options),
            "on_crash": body.on_crash,
            "principal": self._caller,
        }
        if body.tools:
            fields[TOOLS] = _tools(body.tools)
        await self._node.quota.turn(self._caller, sid)
        await self._node.directory.expect_live(sid)
        with self._traced(fields) as span:
            opened = await self._node.log.create(sid, nonce, _hash(body.model_dump()), messages, fields)
            await self._follow_up(sid, opened, messages)
            span.set(session=sid, generation=opened.generation)
        return sid, opened

    async def message(self, sid: str, body: schemas.NextMessage, key: str | None) -> Opened:
        await self.view(sid)
        message, *more = self._said(body.said)
        fields = {}
        if body.model is not None:
            fields["model"] = check_model(body.model, self._node.settings.models)
        if body.options is not None:
            fields["options"] = _json(body.options)
        if body.tools is not None:
            fields[TOOLS] = _tools(body.tools)
        await self._node.quota.turn(self._caller, sid)
        await self._node.directory.expect_live(sid)
        interrupt_by = "user" if body.interrupt else ""
        with self._traced(fields) as span:
            opened = await self._node.log.message(
                sid, self._nonce(key), _hash(body.model_dump()), message, fields, more=more, interrupt_by=interrupt_by
            )  # fmt: skip
            if opened.interrupted:
                await self._tell_to_stop(opened.interrupted, sid, generation_before(opened.generation))
            await self._follow_up(sid, opened, [message, *more])
            span.set(session=sid, generation=opened.generation)
        return opened

    async def stop(self, sid: str, generation: str) -> StopOutcome:
        """Without a name: the generation of now. A late duplicate of the request must not hit the next one."""
        view = await self.view(sid)
        try:
            outcome = await self._node.log.stop(sid, self._by, generation or view.generation)
        except NotTheGeneration:
            if generation:
                raise
            return StopOutcome("done", view.generation)  # it ended, and the next one began, between the two
        if outcome.outcome == "cancelled":
            self._node.hub.counts.appended += 1
            self._node.hub.counts.ended[("cancelled", self._by)] += 1
        if outcome.outcome == "stopping":
            await self._tell_to_stop(outcome.worker, sid, outcome.generation)
        return outcome

    async def answer(self, sid: str, body: schemas.AnswerRequest, key: str | None) -> None:
        view = await self.view(sid)
        self._check_size(len(body.text))
        nonce = self._nonce(key)
        worker = await self._node.log.answer(sid, nonce, body.question, body.text, self._caller)
        stored = {"nonce": nonce, "question": body.question, "text": body.text, "by": self._caller}
        told = {"session": sid, "generation": view.generation, "do": "answer", "answer": _json(stored)}
        await self._tell(worker, told)

    async def delete(self, sid: str) -> None:
        view = await self.view(sid)
        try:
            worker = await self._node.log.delete(sid)
        except SessionNotFound:  # it was there just now: a repeat after a lost reply
            worker = view.worker
        await self._node.directory.remove_owned(self._caller, sid)
        await self._tell_to_stop(worker, sid, view.generation)

    async def opened_by(self, sid: str, key: str) -> Opened | None:
        """The turn that a request with this key has opened; None where there was none."""
        found = await self._node.log.opened_by(sid, self._nonce(key))
        return None if found is None else Opened(*found, fresh=False)

    async def before(self, sid: str, turn: Opened, messages: int = 1) -> EventId:
        """The cursor right before a turn's messages; where the log no longer has that, right after them."""
        first = EventId(turn.last.epoch, turn.last.seq - messages + 1)
        _, page = await self._node.log.read(sid, EventId(first.epoch, first.seq - 1), 1)
        return page[0].before if page and page[0].id == first else turn.last

    # -- inside

    @contextmanager
    def _traced(self, fields: dict[str, str]) -> Iterator[Span]:
        """A turn is opened. Its trace, where there is one, is a field of the session: the request's, or, on a socket,
        one of its own."""
        span = here()
        if span is NOTHING:
            span = self._node.tracing.begin("turn", kind="server")
            with inside(span):
                fields.update(_trace(span))
                yield span
        else:
            fields.update(_trace(span))
            yield span

    def _count(self, sid: str, opened: Opened, messages: Sequence[Mapping[str, Any]]) -> None:
        """Of an epoch that was opened all events are known: their numbers begin with 1."""
        counts = self._node.hub.counts
        counts.appended += opened.last.seq
        if opened.last.seq > len(messages):
            counts.ended[("cancelled", "interrupted")] += 1
        if self._node.settings.log_content:
            _log.debug("the user said", session=sid, generation=opened.generation, messages=list(messages))

    async def _follow_up(self, sid: str, opened: Opened, messages: Sequence[Mapping[str, Any]]) -> None:
        """What comes after the log.

        The message is safe there: a job that does not reach the queue is found by a reaper, and the list gets the
        session with its next turn at the latest.
        """
        if not opened.fresh:
            return
        self._count(sid, opened, messages)
        settings = self._node.settings
        forget_ms = int((settings.retention_s + settings.tombstone_s) * 1000) + FORGET_MARGIN_MS
        try:
            await self._node.queue.enqueue(sid, opened.generation, opened.last.epoch)
            await self._node.directory.touch_owned(self._caller, sid, now_ms(), forget_ms)
        except RedisError as error:
            _log.error(
                "could not queue or list; a reaper will queue", session=sid, generation=opened.generation,
                error=str(error), rare=True,
            )  # fmt: skip

    async def _tell_to_stop(self, worker: str, sid: str, generation: str) -> None:
        await self._tell(worker, {"session": sid, "do": "stop", "generation": generation, "by": self._by})

    async def _tell(self, worker: str, message: Mapping[str, Any]) -> None:
        """What matters is stored already; an announcement that is lost costs a heartbeat."""
        try:
            await self._node.directory.tell(worker, _json(message))
        except RedisError as error:
            _log.warning(
                "worker could not be told", session=message["session"], generation=message["generation"], holder=worker,
                error=str(error), rare=True,
            )  # fmt: skip

    def _nonce(self, key: str | None) -> str:
        """The same for the same caller and key, so that a repeated request is recognised."""
        if key is None:
            return new_token()
        if not 1 <= len(key) <= 255:
            raise InvalidRequest("Idempotency-Key must have 1 to 255 characters")
        return hashlib.sha256(f"{self._caller}\0{key}".encode()).hexdigest()

    def _said(self, messages: Sequence[schemas.InputMessage]) -> list[dict[str, Any]]:
        """Messages as the data of their events. Raises InvalidRequest where they are too large."""
        said = [message.model_dump(exclude_none=True) for message in messages]
        calls = (encode({"calls": m["tool_calls"]}) for m in said if "tool_calls" in m)
        self._check_size(sum(len(message["content"]) for message in said) + sum(map(len, calls)))
        return said

    def _check_size(self, chars: int) -> None:
        if chars > (limit := self._node.settings.max_input_chars):
            raise InvalidRequest(f"the input has {chars} characters; {limit} are allowed")


def _trace(span: Span) -> dict[str, str]:
    return {TRACE: span.traceparent} if span is not NOTHING else {}


def _json(value: Mapping[str, Any]) -> str:
    return encode(value).decode()


def _tools(tools: Sequence[schemas.ClientTool]) -> str:
    return to_json(tools).decode()


def _hash(value: Mapping[str, Any]) -> str:
    return body_hash(to_json(value))
