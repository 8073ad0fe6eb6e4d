"""Routes whose errors look as another server's do."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.errors import words_of
from shared.errors import HoldfastError, InvalidRequest, RedisUnavailable
from shared.telemetry import get_logger

_log = get_logger(__name__)

Refusal = Callable[[HoldfastError], Response]


def refusing(refusal: Refusal) -> type[APIRoute]:
    """For an APIRouter's `route_class`: whatever a request is refused for is said by `refusal`."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handled(request: Request) -> Response:
                try:
                    return await handle(request)
                except HoldfastError as error:
                    return refusal(error)
                except RequestValidationError as error:
                    return refusal(InvalidRequest(words_of(error.errors()[0])))
                except HTTPException as error:
                    if error.status_code != 400:
                        raise
                    return refusal(InvalidRequest(f"the body cannot be read: {error.detail}"))
                except RedisError as error:
                    _log.error("redis failed", error=str(error), rare=True)
                    return refusal(RedisUnavailable())

            return handled

    return Route
