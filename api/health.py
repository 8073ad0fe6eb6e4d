"""Health: alive (the process answers) and ready (it may be sent clients)."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.errors import documented, error_body
from api.node import TheNode
from shared.redis import RedisError

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str = "ok"


@router.get("/livez")
async def livez() -> Health:
    return Health()


@router.get("/readyz", response_model=Health, responses=documented(503))
async def readyz(node: TheNode) -> Health | JSONResponse:
    """503 while the node drains or Redis cannot be reached: a load balancer then sends clients elsewhere."""
    if node.hub.draining:
        return JSONResponse(error_body("draining", "the node is shutting down"), 503)
    if not node.hub.healthy:
        return JSONResponse(error_body("internal", "a part of the node has failed"), 503)
    try:
        await node.log.ping()
    except RedisError:
        return JSONResponse(error_body("redis_unavailable", "Redis cannot be reached"), 503)
    return Health()
