"""Health: alive (the process answers) and ready (it may be sent clients)."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.errors import documented, error_body
from api.node import Node, TheNode
from shared.redis import RedisError
from shared.tasks import within

router = APIRouter(tags=["health"])

READY_S = 1.0
"""How long metrics wait for Redis: Prometheus must be told that it is away, too."""


class Health(BaseModel):
    status: str = "ok"


@router.get("/livez")
async def livez() -> Health:
    return Health()


@router.get("/readyz", response_model=Health, responses=documented(503))
async def readyz(node: TheNode) -> Health | JSONResponse:
    """503 while the node drains or Redis cannot be reached: a load balancer then sends clients elsewhere."""
    why_not = await unready(node)
    return Health() if why_not is None else JSONResponse(error_body(*why_not), 503)


async def unready(node: Node) -> tuple[str, str] | None:
    """Code and words for why the node is not to be sent clients; None: it is."""
    if node.hub.draining:
        return "draining", "the node is shutting down"
    if not node.hub.healthy:
        return "internal", "a part of the node has failed"
    try:
        await node.log.ping()
    except RedisError:
        return "redis_unavailable", "Redis cannot be reached"
    return None


@router.get("/metrics", include_in_schema=False)
async def metrics(node: TheNode, request: Request) -> Response:
    """For Prometheus, in the form it asks for. Not for the outside: see deploy/nginx.conf."""
    if node.metrics is None:
        return JSONResponse(error_body("not_found", "metrics are turned off"), 404)
    try:
        ready = await within(READY_S, unready(node)) is None
    except TimeoutError:
        ready = False
    text, content_type = node.metrics.exposed(request.headers.get("accept", ""), ready=ready)
    return Response(text, headers={"content-type": content_type})
