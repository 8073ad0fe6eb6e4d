"""What LangGraph's SDKs are told of threads and runs."""

from datetime import UTC, datetime
from typing import Any

from api.compat.langgraph_requests import CHAT
from api.dialects import langchain_messages as written
from api.dialects.conversation import Conversation
from api.dialects.langgraph import NODE
from api.node import Node, now_ms
from shared.events import Event, EventType, State
from shared.ids import generation_number
from shared.transcript import Failure, Question
from shared.views import SessionView


async def events_of(node: Node, sid: str, view: SessionView | None) -> list[Event]:
    return [] if view is None or view.log_gone else await node.log.events(sid, joined=True)


def thread(name: str, sid: str, view: SessionView | None, events: list[Event]) -> dict[str, Any]:
    """One without a session has had no run yet: it is idle, and has no values."""
    asked = _asked(view, events)
    return {
        "thread_id": name,
        "created_at": _time(view.created if view else now_ms()),
        "updated_at": _time(view.since if view else now_ms()),
        "metadata": {},
        "status": written.THREAD_STATUS[view.state] if view else "idle",
        "config": {},
        "values": values(sid, events) if events else None,
        "interrupts": {NODE: asked} if asked else {},
    }


def state(name: str, sid: str, view: SessionView | None, events: list[Event]) -> dict[str, Any]:
    """The checkpoint is the last event's id."""
    asked = _asked(view, events)
    task = {"id": NODE, "name": NODE, "error": None, "interrupts": asked, "checkpoint": None, "state": None}
    live = view is not None and view.live
    return {
        "values": values(sid, events),
        "next": [NODE] if live else [],
        "tasks": [task] if live else [],
        "interrupts": asked,
        "checkpoint": {
            "thread_id": name,
            "checkpoint_ns": "",
            "checkpoint_id": str(view.last) if view else None,
            "checkpoint_map": None,
        },
        "metadata": {},
        "created_at": _time(view.since) if view else None,
        "parent_checkpoint": None,
    }


def values(sid: str, events: list[Event]) -> dict[str, Any]:
    said = Conversation(sid).take_all(events)
    return written.values(said.messages, said.model)


def outcome(sid: str, generation: str, events: list[Event]) -> dict[str, Any]:
    """What a run came to: the state at its end, or the error it ended with."""
    until: list[Event] = []
    for event in events:
        until.append(event)
        if event.terminal and event.value["generation"] == generation:
            break
    end = until[-1]
    if end.type == EventType.COMPLETED:
        return values(sid, until)
    failure = written.CANCELLED if end.type == EventType.CANCELLED else Failure.model_validate(end.value)
    return {"__error__": written.error(failure)}


def run(name: str, sid: str, generation: str, view: SessionView, state: State) -> dict[str, Any]:
    return {
        "run_id": f"{sid}_{generation}",
        "thread_id": name,
        "assistant_id": view.model if view.pipeline == CHAT else view.pipeline,
        "created_at": _time(view.created),
        "updated_at": _time(view.since),
        "status": written.RUN_STATUS[state],
        "metadata": {},
        "kwargs": {},
        "multitask_strategy": "reject",
    }


def state_of(generation: str, view: SessionView, events: list[Event]) -> State:
    """Of one that is not the newest: it is over, and the log says how, as long as it is kept."""
    if generation == view.generation:
        return view.state
    for event in events:
        if event.terminal and event.value["generation"] == generation:
            return State(str(event.type).rpartition(".")[2])
    return State.COMPLETED


def generations(view: SessionView) -> list[str]:
    """The newest first."""
    return [f"g{number}" for number in range(generation_number(view.generation), 0, -1)]


def _asked(view: SessionView | None, events: list[Event]) -> list[dict[str, Any]]:
    if view is None or view.state is not State.WAITING:
        return []
    asked = next((e for e in reversed(events) if e.type == EventType.QUESTION and e.value["id"] == view.question), None)
    return [written.interrupt(Question.model_validate(asked.value))] if asked else []


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
