"""`GET /v1/models`: what can be named as a model."""

from typing import Any

from fastapi import APIRouter

from api.compat.openai_request import model_of, refusal
from api.compat.routes import refusing
from api.errors import documented
from api.node import Caller, TheNode
from shared.models import DEMO_MODELS, check_model

router = APIRouter(prefix="/v1/models", tags=["openai"], route_class=refusing(refusal))


@router.get("", responses=documented(400, 503))
async def list_models(caller: Caller) -> dict[str, Any]:
    """The models that are known by name. Any other is `provider/name`: whether there is one is for its provider to say,
    and is not asked here."""
    return {"object": "list", "data": [_model(name) for name in DEMO_MODELS]}


@router.get("/{model:path}", responses=documented(400, 404, 422, 503))
async def retrieve_model(node: TheNode, caller: Caller, model: str) -> dict[str, Any]:
    """A model of a provider that is known here."""
    return _model(check_model(model_of(model), node.settings.models))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
