"""The OpenAPI document: the node does what it says, and it says all that the node does. Fuzzed over real processes."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.compat.anthropic_messages import ERROR_SCHEMA
from tests.support.redis_server import redis_server
from tests.support.sse import read_all
from tests.support.system import create, system

TIMEOUT_S = 10
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FUZZ = settings(
    max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

EVENTS = "/v1/sessions/{sid}/events"
CHAT = "/api/chat/stream"
COMPLETIONS = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
UI = "/api/chat"
UI_PATHS = (UI, f"{UI}/{{chat_id}}/stream", f"{UI}/{{chat_id}}/stop")
OPERATIONS: list[tuple[str, str, set[str]]] = [
    ("post", "/v1/sessions", {"201", "400", "410", "413", "422", "503"}),
    ("get", "/v1/sessions", {"200", "400", "422", "503"}),
    ("get", "/v1/sessions/{sid}", {"200", "404", "422", "503"}),
    ("delete", "/v1/sessions/{sid}", {"204", "404", "422", "503"}),
    ("post", "/v1/sessions/{sid}/messages", {"201", "400", "404", "410", "413", "422", "503"}),
    ("post", "/v1/sessions/{sid}/stop", {"200", "400", "404", "413", "422", "503"}),
    ("post", "/v1/sessions/{sid}/answer", {"202", "400", "404", "410", "413", "422", "503"}),
    ("get", EVENTS, {"200", "204", "400", "404", "410", "422"}),
    ("post", CHAT, {"200", "204", "400", "404", "410", "413", "422", "503"}),
    ("get", CHAT, {"200", "204", "400", "404", "410", "422", "503"}),
    ("post", COMPLETIONS, {"200", "400", "404", "413", "422", "429", "502", "503", "504"}),
    ("post", RESPONSES, {"200", "400", "404", "413", "422", "429", "502", "503", "504"}),
    ("get", f"{RESPONSES}/{{response_id}}", {"200", "400", "404", "503"}),
    ("post", f"{RESPONSES}/{{response_id}}/cancel", {"200", "404", "503"}),
    ("post", MESSAGES, {"200", "400", "401", "404", "413", "429", "500", "503", "504", "529"}),
    ("post", UI, {"200", "400", "404", "410", "413", "422", "429", "503"}),
    ("get", f"{UI}/{{chat_id}}/stream", {"200", "204", "400", "410", "503"}),
    ("post", f"{UI}/{{chat_id}}/stop", {"200", "400", "404", "413", "503"}),
    ("get", "/v1/models", {"200"}),
    ("get", "/v1/models/{model}", {"200", "404"}),
    ("get", "/livez", {"200"}),
    ("get", "/readyz", {"200", "503"}),
]
"""Every call, and the statuses it is known to answer with."""
NEVER_WRONG = [
    ("post", f"{RESPONSES}/{{response_id}}/cancel"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
]
"""Calls that nothing can be said wrong in: any name is one that there might be."""
OF_SESSIONS = [
    (method, path)
    for method, path, _ in OPERATIONS
    if path.startswith(("/v1", UI)) and (method, path) not in NEVER_WRONG
]


@pytest.fixture(scope="module")
def redis_process_url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(redis_process_url: str) -> AsyncIterator[str]:
    """A node and a worker that can reach no provider, with the session `known`."""
    nowhere = {"OPENAI_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
    async with system(redis_process_url, environment=nowhere) as running:
        await create(running.url, id="known", options={"tokens": 3})
        await read_all(running.url, "known")
        yield running.url


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    response = httpx.get(f"{url}/openapi.json")
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


@pytest.fixture(scope="module")
def schema(url: str, document: dict[str, Any]) -> Any:
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    return schema


@pytest.mark.parametrize(("method", "path", "statuses"), OPERATIONS)
def test_statuses_are_documented(document: dict[str, Any], method: str, path: str, statuses: set[str]) -> None:
    """Every call is documented, with every status it answers with."""
    assert statuses <= document["paths"][path][method]["responses"].keys()


def test_errors_are_documented_as_they_are(document: dict[str, Any]) -> None:
    """Wherever an error status is documented, it is JSON of the one shape all errors have, or of the protocol's own."""
    ours = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    own = {"application/json": {"schema": ERROR_SCHEMA}}
    text = {"text/plain": {"schema": {"type": "string"}}, **ours}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            errors = {status: said for status, said in operation["responses"].items() if status >= "400"}
            shapes = {status: own if path == MESSAGES and status != "413" else ours for status in errors}
            if path in UI_PATHS:
                shapes = dict.fromkeys(errors, text)
            assert {status: said.get("content") for status, said in errors.items()} == shapes, (
                method,
                path,
            )


def test_stream_is_documented(document: dict[str, Any]) -> None:
    """The events are documented as an event stream, and both ways to give a cursor as optional."""
    operation = document["paths"][EVENTS]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["text/event-stream"]
    assert "content" not in operation["responses"]["204"]
    optional = {
        (parameter["in"], parameter["name"]) for parameter in operation["parameters"] if not parameter["required"]
    }
    assert optional >= {("header", "last-event-id"), ("query", "after"), ("query", "follow"), ("query", "merge")}


def test_documentation_page(url: str, document: dict[str, Any]) -> None:
    """The page for people is there, and names no place outside of what it documents."""
    assert httpx.get(f"{url}/docs").status_code == 200
    assert document["info"]["title"] == "Holdfast"


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OF_SESSIONS)
def test_any_request(schema: Any, method: str, path: str, mode: GenerationMode) -> None:
    """Whatever is sent, valid or not, gets an answer that is documented, of the documented shape, and no failure."""

    @FUZZ
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def check(case: Case[Any]) -> None:
        _call(case)

    check()


@pytest.mark.parametrize(("method", "path"), [*(each for each in OF_SESSIONS if each[0] != "delete"), *NEVER_WRONG])
def test_any_request_about_something(schema: Any, method: str, path: str) -> None:
    """The same for requests that mean something: a session that is there, a model that there is."""

    @FUZZ
    @given(case=schema[path][method].as_strategy())
    def check(case: Case[Any]) -> None:
        if "sid" in case.path_parameters:
            case.path_parameters["sid"] = "known"
        if "chat_id" in case.path_parameters:
            case.path_parameters["chat_id"] = "known"
        if "response_id" in case.path_parameters:
            case.path_parameters["response_id"] = "resp_known_g1"
        if isinstance(case.body, dict):
            _make_sense(case.body)
        _call(case)

    check()


def _make_sense(body: dict[str, Any]) -> None:
    """Of what no schema can say: one of input and messages, the user last, a model that there is, a quick end."""
    if "model" in body or "input" in body:
        body |= {"model": "demo/lorem", "options": {"tokens": 3}}
    if body.get("input") is not None:
        body.pop("messages", None)
    if body.get("messages") and isinstance(body["messages"][-1], dict):
        body["messages"][-1]["role"] = "user"


def _call(case: Case[Any]) -> None:
    if str(case.query.get("follow")).lower() in ("true", "1", "on", "yes", "y", "t"):
        case.query["follow"] = False  # a followed session has no end
    if case.path == CHAT:
        _make_short(case)
    if case.path in (COMPLETIONS, RESPONSES, MESSAGES, UI) and isinstance(case.body, dict):
        _ask_no_provider(case.body)
    if case.path == UI and isinstance(case.body, dict):
        case.body |= {"options": {"tokens": 3}}
    case.validate_response(case.call(timeout=TIMEOUT_S), checks=CHECKS)


def _ask_no_provider(body: dict[str, Any]) -> None:
    """A bare name means a provider that is not there, and to find that out takes its time."""
    if isinstance(model := body.get("model"), str) and "/" not in model:
        body["model"] = f"nobody/{model}"


def _make_short(case: Case[Any]) -> None:
    """Demo models take their time where nothing is said about it: a few words are enough here."""
    for asked in (case.query, case.body):
        if isinstance(asked, dict) and isinstance(message := asked.get("message"), str):
            asked |= {"message": message[:10], "model": "demo/echo"}


def test_still_serves(url: str) -> None:
    """After all of it the node is ready."""
    assert httpx.get(f"{url}/readyz").status_code == 200
