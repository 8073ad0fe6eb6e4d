"""The log under random attack: lost and late calls, stale writers, takeovers, failovers, trims, lost messages."""

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from redis.exceptions import ConnectionError as RedisConnectionError

from api import delivery
from shared.errors import HoldfastError
from shared.events import EventType
from shared.ids import START, new_token
from tests.support.log_world import ALIVE, World
from tests.support.sessions import FIELDS, HELLO
from tests.support.wire import Fault
from tests.support.workers import writer_of
from worker import writer as writing
from worker.writer import Pen, PenLost, SessionGone

FAULTS = st.sampled_from([Fault.NONE, Fault.NONE, Fault.NONE, Fault.LOST, Fault.REPLY_LOST])
NAMES = st.integers(0, 3).map("n{}".format)
"""Nonces: few, so that they come again."""
BODIES = st.sampled_from(["body", "body", "body", "other"])
PLACES = st.integers(0, 30)
"""Index into whatever there is: writers, calls on their way."""
SAYINGS = st.sampled_from(["text", "delta", "delta", "delta", "question", "answer", "answer", "end", "nothing"])
_numbers = itertools.count()


class LogMachine(RuleBasedStateMachine):
    """Redis may forget, the network may lose, repeat and delay: `World` checks after each step what must hold.

    No rule has a precondition: epochs are random, so what is possible at a step differs from run to run.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.asked: list[str] = []
        self.world = World(url, f"property-{next(_numbers)}")
        self.run(self.world.open())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def call(self, fault: Fault, work: Coroutine[Any, Any, Any]) -> Any:
        """One call by a caller that may be refused, or learn nothing."""
        self.world.wire.faults.append(fault)
        try:
            with contextlib.suppress(HoldfastError, RedisConnectionError, PenLost, SessionGone):
                return self.run(work)
        finally:
            self.world.wire.faults.clear()

    @property
    def _sid(self) -> str:
        return self.world.sid

    @property
    def _generation(self) -> str:
        return self.world.model.generation or "g1"

    def _some_generation(self, *, old: bool) -> str:
        return f"g{max(int(self._generation[1:]) - 1, 1)}" if old else self._generation

    # -- turns

    @initialize(sayings=st.lists(SAYINGS, max_size=4))
    def begin(self, sayings: list[str]) -> None:
        self.go_on(sayings, together=True, fault=Fault.NONE)

    @rule(sayings=st.lists(SAYINGS, min_size=1, max_size=6), together=st.booleans(), fault=FAULTS)
    def go_on(self, sayings: list[str], together: bool, fault: Fault) -> None:
        """What happens where nothing goes wrong, from wherever the session is: so that there is something to lose."""
        model = self.world.model
        if not model.known:
            self.create(new_token(), "body", fault)
        elif not model.live:
            self.message(new_token(), "body", fault)
        if self.world.model.state == "queued":
            self.claim(ALIVE, 1, fault)
        for batch in [sayings] if together else [[saying] for saying in sayings]:
            if batch[:1] == ["answer"] and self.world.model.state == "waiting":
                self.answer("n0", 0, fault)
            self.append(30, batch, fault)

    @rule(nonce=NAMES, body=BODIES, fault=FAULTS)
    def create(self, nonce: str, body: str, fault: Fault) -> None:
        self.call(fault, self.world.log.create(self._sid, nonce, body, [HELLO, HELLO], FIELDS))

    @rule(nonce=NAMES.map("m{}".format), body=BODIES, fault=FAULTS, interrupt=st.sampled_from(["", "", "user"]))
    def message(self, nonce: str, body: str, fault: Fault, interrupt: str = "") -> None:
        self.call(fault, self.world.log.message(self._sid, nonce, body, HELLO, {}, interrupt_by=interrupt))

    @rule(old=st.booleans(), fault=FAULTS)
    def stop(self, old: bool, fault: Fault) -> None:
        self.call(fault, self.world.log.stop(self._sid, "user", self._some_generation(old=old)))

    @rule(nonce=NAMES, back=st.integers(0, 1), fault=FAULTS)
    def answer(self, nonce: str, back: int, fault: Fault) -> None:
        """The newest question mostly, or the one before it; open or answered."""
        if not self.asked:
            return
        question = self.asked[-1 - back % len(self.asked)]
        self.call(fault, self.world.log.answer(self._sid, nonce, question, "this", "me"))

    @rule(fault=FAULTS)
    def delete_and_create(self, fault: Fault) -> None:
        if len(self.world.model.history) <= 8:
            return
        self.call(fault, self.world.log.delete(self._sid))
        self.call(fault, self.world.log.create(self._sid, new_token(), "body", [HELLO], FIELDS))

    # -- the pen

    @rule(worker=st.sampled_from([ALIVE, ALIVE, "dead"]), old=st.integers(0, 5), fault=FAULTS)
    def claim(self, worker: str, old: int, fault: Fault) -> None:
        token, generation = new_token(), self._some_generation(old=old == 0)
        claimed = self.call(fault, self.world.log.claim(self._sid, token, generation, worker))
        claimed = claimed or self.call(Fault.NONE, self.world.log.claim(self._sid, token, generation, worker))
        if claimed is not None:
            pen = Pen(self._sid, generation, worker, token, claimed.epoch)
            self.run(self._hold(pen))

    async def _hold(self, pen: Pen) -> None:
        self.world.writers.append(writer_of(self.world.log, pen)[0])

    @rule(place=PLACES, sayings=st.lists(SAYINGS, max_size=4), fault=FAULTS)
    def append(self, place: int, sayings: list[str], fault: Fault) -> None:
        """The newest writer mostly; a stale one at times."""
        if not self.world.writers:
            return
        writer = self.world.writers[-1 if place > 5 else place % len(self.world.writers)]
        for saying in sayings:
            if not writer._ended:
                self.run(self._say(writer, saying))
        if writer._acked < len(writer._said):
            self.call(fault, writer._append(writer._next_batch()))

    async def _say(self, writer: writing.Writer, saying: str) -> None:
        number = next(_numbers)
        match saying:
            case "text":
                writer.event(EventType.TEXT, {"text": f"{number}", "list": []})
            case "delta":
                writer.event(EventType.TEXT, {"text": f"{number}"})
            case "question":
                self.asked.append(f"q{number}")
                writer.event(EventType.QUESTION, {"id": self.asked[-1], "text": "which?"})
            case "answer":
                writer.event(EventType.ANSWER, {"id": f"q{number}", "text": "this"})
            case "end":
                writer.end(EventType.COMPLETED, {"finish_reason": "stop"})

    @rule(place=PLACES)
    def linger(self, place: int) -> None:
        """The last append once more, by a writer that is done or believes so."""
        if not self.world.writers:
            return
        writer = self.world.writers[-1 if place > 5 else place % len(self.world.writers)]
        if writer._said:
            writer._forget_acknowledged(len(writer._said) - 1)
            self.call(Fault.NONE, writer._append(writer._next_batch()))

    @rule(place=PLACES, fault=FAULTS)
    def release(self, place: int, fault: Fault) -> None:
        if not self.world.writers:
            return
        writer = self.world.writers[-1 if place > 5 else place % len(self.world.writers)]
        self.call(fault, self.world.log.release(self._sid, writer.pen.token))

    @rule(crashes=st.sampled_from([1, 2, 9]), young=st.booleans(), stale=st.booleans(), fault=FAULTS)
    def reap(self, crashes: int, young: bool, stale: bool, fault: Fault) -> None:
        epoch = self.world.model.epoch - stale
        self.call(fault, self.world.log.reap(self._sid, epoch, crashes, 600_000 if young else 0))

    @rule(stale=st.integers(0, 5))
    def abandon(self, stale: int) -> None:
        self.call(Fault.NONE, self.world.log.abandon(self._sid, self.world.model.epoch - stale, 0))

    @rule(sayings=st.lists(SAYINGS, max_size=4), late=st.booleans(), fault=FAULTS)
    def compact(self, sayings: list[str], late: bool, fault: Fault) -> None:
        """What is over is stored in fewer entries; the fault meets the swap, or what comes before it."""
        if sayings:
            self.go_on([*sayings, "delta", "delta", "end"], together=True, fault=Fault.NONE)
        if late:
            self.world.wire.faults.append(Fault.NONE)
        self.call(fault, self.world.log.compact(self._sid))

    # -- faults

    @rule(back=PLACES)
    def duplicate(self, back: int) -> None:
        """The very bytes of an earlier call arrive once more."""
        if not self.world.wire.sent:
            return
        sent = self.world.wire.sent
        self.run(self.world.wire.again(sent[-1 - back % len(sent)]))

    @rule(lost=st.integers(0, 7))
    def fail_over(self, lost: int) -> None:
        self.run(self.world.fail_over(lost))

    @rule(sure=st.integers(0, 9))
    def lose_everything(self, sure: int) -> None:
        if sure == 0:
            self.run(self.world.lose_everything())

    @rule(keep=st.integers(0, 6))
    def trim(self, keep: int) -> None:
        if not self.world.model.log_exists:
            return
        self.run(self.world.trim(keep))

    @rule()
    def expire(self) -> None:
        if not (self.world.model.log_exists and not self.world.model.live):
            return
        self.run(self.world.expire())

    # -- readers

    @rule(count=st.integers(1, 5), lost=st.booleans())
    def network(self, count: int, lost: bool) -> None:
        self.run(self._network(count, lost=lost))

    async def _network(self, count: int, *, lost: bool) -> None:
        self.world.deliver(count, lost=lost)
        await asyncio.sleep(0.001)

    @rule()
    def tick(self) -> None:
        self.run(self.world.tick())

    @rule(place=st.integers(0, 2), follow=st.booleans(), start=st.booleans())
    def connect(self, place: int, follow: bool, start: bool) -> None:
        self.run(self.world.followers[place].connect(START if start else None, follow=follow))

    @rule()
    def settle(self) -> None:
        self.run(self.world.settle())

    def teardown(self) -> None:
        try:
            self.run(self.world.settle())
        finally:
            self.run(self.world.close())
            self.runner.close()


@pytest.mark.timeout(600)  # what fails is made smaller first
def test_log_property(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One Redis or many failovers: every reader gets exactly the log or an explicit gap; one terminal per generation;
    no event by a fenced writer; never two different events under one id; repeated calls change nothing."""
    monkeypatch.setattr(delivery, "HEAL_POLL_S", 0.002)
    monkeypatch.setattr(writing, "BACKOFF_S", (0.0,) * 5)
    run_state_machine_as_test(
        lambda: LogMachine(redis_url),  # type: ignore[arg-type]  # a factory does as well
        settings=settings(
            max_examples=250,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
