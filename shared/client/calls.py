"""What is asked of the API, as plans: generators that yield what is to be done, and are sent what came of it.

So the rules are here, once, and `sync` and `aio` do nothing but carry them out. Every call may be repeated: it reads,
or it bears an Idempotency-Key, or it names what it means.
"""

import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from shared.client import models
from shared.client.errors import ClientError, Gone, NotFound, ProtocolError, Unreachable, refusal
from shared.client.patience import Patience, is_passing, retry_after_s

ANSWER_WITHIN_S = 15.0
CONNECT_WITHIN_S = 10.0


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    within_s: float = ANSWER_WITHIN_S
    """Silence of the server beyond this is no answer."""

    def request(self) -> dict[str, Any]:
        """For httpx's `build_request`."""
        query = {name: value for name, value in self.query.items() if value is not None}
        timeout = httpx.Timeout(self.within_s, connect=CONNECT_WITHIN_S, pool=None)
        told = {"method": self.method, "url": self.path, "headers": dict(self.headers), "timeout": timeout}
        return told | ({"params": query} if query else {}) | ({"json": self.body} if self.body is not None else {})


@dataclass(frozen=True)
class Pause:
    seconds: float


Outcome = httpx.Response | httpx.RequestError | None
"""Of a call: the response, read; or why there is none. Of a pause: None."""
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
Plan = Generator[Call | Pause, Outcome, T]


def session_path(sid: str, *parts: str) -> str:
    return "/".join(["/v1/sessions", quote(sid, safe=""), *parts])


def lost(error: httpx.RequestError) -> ClientError:
    """Why nothing was answered. Without the error itself: its frames hold the headers that were sent."""
    if isinstance(error, httpx.LocalProtocolError):
        raise ProtocolError(f"cannot be sent: {error}")
    return Unreachable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def asked(call: Call, patience: Patience) -> Plan[bytes]:
    """The body of the answer. Raises Refused at once for what will not change, else when patience is over."""
    while True:
        outcome = yield call
        if isinstance(outcome, httpx.RequestError):
            wait_s = patience.wait_s(lost(outcome))
        else:
            assert outcome is not None
            if outcome.is_success:
                return outcome.content
            error = refusal(outcome.status_code, outcome.content)
            if not is_passing(outcome.status_code):
                raise error
            wait_s = patience.wait_s(error, retry_after_s(outcome.headers))
        yield Pause(wait_s)


def read(call: Call, patience: Patience, model: type[Model]) -> Plan[Model]:
    body = yield from asked(call, patience)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise ProtocolError(f"the answer to {call.method} {call.path} is no {model.__name__}") from error


def open_session(what: models.Opening, patience: Patience) -> Plan[models.Opened]:
    body, headers = _keyed(what)
    return (yield from read(Call("POST", "/v1/sessions", body, headers=headers), patience, models.Opened))


def say(sid: str, input_: str | None, what: models.NextTurn, patience: Patience) -> Plan[models.Opened]:
    body, headers = _keyed({"input": input_, **what})
    call = Call("POST", session_path(sid, "messages"), body, headers=headers)
    return (yield from read(call, patience, models.Opened))


def show(sid: str, patience: Patience) -> Plan[models.Shown]:
    return (yield from read(Call("GET", session_path(sid)), patience, models.Shown))


def page(query: Mapping[str, Any], patience: Patience) -> Plan[models.Page]:
    return (yield from read(Call("GET", "/v1/sessions", query=query), patience, models.Page))


def stop(sid: str, generation: str, wait_s: float, patience: Patience) -> Plan[models.Stopped]:
    body = {"generation": generation, "wait_s": wait_s}
    call = Call("POST", session_path(sid, "stop"), body, within_s=ANSWER_WITHIN_S + wait_s)
    return (yield from read(call, patience, models.Stopped))


def answer(sid: str, question: str, text: str, patience: Patience) -> Plan[None]:
    body, headers = _keyed({"question": question, "text": text})
    yield from asked(Call("POST", session_path(sid, "answer"), body, headers=headers), patience)


def delete(sid: str, patience: Patience) -> Plan[None]:
    """Gone already is no error, where an earlier try may have done it."""
    call = Call("DELETE", session_path(sid))
    tries = 0
    plan = asked(call, patience)
    outcome: Outcome = None
    while True:
        try:
            step = plan.send(outcome)
        except StopIteration:
            return
        except (NotFound, Gone):
            if tries > 1:
                return
            raise
        tries += isinstance(step, Call)
        outcome = yield step


def _keyed(what: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The body, and the headers that make a repeat of it harmless."""
    body = {name: value for name, value in what.items() if value is not None}
    key = body.pop("idempotency_key", None)
    return body, {"idempotency-key": uuid.uuid4().hex if key is None else str(key)}
