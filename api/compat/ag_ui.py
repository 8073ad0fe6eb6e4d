"""`POST /ag-ui`: begins a run, or tells it again from its start, as its `threadId` and `runId` were seen before."""

from fastapi import APIRouter

from api.commands import Commands
from api.compat.ag_ui_request import Resume, RunAgentInput, first_turn, next_turn
from api.compat.answers import streamed
from api.compat.threads import session_of, turn_in
from api.dialects.ag_ui import AgUiProjection
from api.errors import documented_as_json, error_response
from api.node import Caller, Node, TheNode
from api.schemas import AnswerRequest
from api.stream import STREAM, EventStream
from shared.errors import InvalidRequest, QuestionGone
from shared.events import Event, EventType
from shared.ids import START

router = APIRouter(tags=["ag-ui"])

_RESPONSES = {**{status: said for status, said in STREAM.items() if status != 204}, **documented_as_json(413, 503)}


@router.post("/ag-ui", response_class=EventStream, status_code=200, responses=_RESPONSES)
async def run_agent(node: TheNode, caller: Caller, body: RunAgentInput) -> EventStream:
    """Run the agent. A run that was cut is resumed by the same request: it is told from its start, and begins nothing.
    A question ends a run (outcome `interrupt`), and its answer in `resume` begins the next one."""
    node.hub.streams.check(caller)  # before anything is started that nobody may watch
    commands, sid = Commands(node, caller), session_of(caller, body.thread_id)
    key = f"ag-ui {body.run_id}"
    cursor, question = START, ""
    if body.resume:
        question = body.resume[0].interrupt_id
        generation = await _answered(node, commands, sid, body.resume[0], key)
    elif (known := await commands.opened_by(sid, key)) is not None:
        await commands.view(sid)
        generation = known.generation
    else:
        following = next_turn(body)
        turn = await turn_in(commands, node, sid, first_turn(sid, body), following, key)
        generation = turn.generation
        if generation != "g1":
            cursor = await commands.before(sid, turn, len(following.said))
    projection = AgUiProjection(sid, generation, body.thread_id, body.run_id, body.messages, question)
    return streamed(node, caller, sid, projection, refusal=error_response, cursor=cursor)


async def _answered(node: Node, commands: Commands, sid: str, resume: Resume, key: str) -> str:
    """Answer a question, unless this answer is its answer already; gives the generation that asked.

    Raises QuestionGone where it has another answer, or is not known.
    """
    await commands.view(sid)
    generation, answer = _question(await node.log.events(sid, joined=True), resume.interrupt_id)
    if not generation:
        raise QuestionGone(resume.interrupt_id)
    if resume.status == "cancelled":
        await commands.stop(sid, generation)
    elif answer is None:
        if not resume.text:
            raise InvalidRequest("resume.0.payload: an answer is needed")
        await commands.answer(sid, AnswerRequest(question=resume.interrupt_id, text=resume.text), key)
    elif answer.value["by"] != "earlier" and answer.value.get("text") != resume.text:
        raise QuestionGone(resume.interrupt_id)
    return generation


def _question(events: list[Event], question: str) -> tuple[str, Event | None]:
    """The generation that asked, or nothing; and the answer, where there is one."""
    generation = asked_by = ""
    for event in events:
        if event.type in (EventType.MESSAGE, EventType.STARTED):
            generation = event.value["generation"]
        elif event.type == EventType.QUESTION and event.value["id"] == question:
            asked_by = generation
        elif event.type == EventType.ANSWER and event.value["id"] == question:
            return asked_by, event
    return asked_by, None
