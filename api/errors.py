"""Errors over HTTP: `{"error": {"code", "message"}}` with the status that fits. Never 409: SDKs retry that."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from shared import errors
from shared.telemetry import get_logger

_log = get_logger(__name__)

STATUS: dict[type[errors.HoldfastError], int] = {
    errors.InvalidEventId: 400,
    errors.UnknownModel: 422,
    errors.UnknownPipeline: 422,
    errors.IdempotencyMismatch: 422,
    errors.InvalidRequest: 400,
    errors.SessionNotFound: 404,
    errors.SessionExpired: 410,
    errors.SessionDeleted: 410,
    errors.QuestionGone: 410,
    errors.SessionExists: 422,
    errors.GenerationRunning: 422,
    errors.NotTheGeneration: 422,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.TooMany: 429,
    errors.AuthenticationUnavailable: 503,
    errors.RedisUnavailable: 503,
    errors.NodeLeaving: 503,
    errors.HoldfastError: 500,
}
_UNREADABLE = "There was an error parsing the body"
"""FastAPI's words for a body that is no UTF-8, or that cannot be parsed at all."""
_NAMES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class ErrorDetail(BaseModel):
    code: str
    message: str


class ErrorBody(BaseModel):
    """What every error looks like."""

    error: ErrorDetail


def error_body(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def status_of(error: errors.HoldfastError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_response(error: errors.HoldfastError) -> JSONResponse:
    return JSONResponse(error_body(error.code, error.message), status_of(error), _headers(error))


def _headers(error: errors.HoldfastError) -> dict[str, str] | None:
    match error:
        case errors.Unauthorized():
            return {"www-authenticate": "Bearer"}
        case errors.TooMany():
            return {"retry-after": str(error.retry_after_s)}
        case errors.AuthenticationUnavailable():
            return {"retry-after": "5"}
    return None


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`."""
    return {status: {"model": ErrorBody} for status in statuses}


def documented_as_json(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same, for a route whose own content is something else."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}
    return {status: {"description": "The error", "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.HoldfastError, _on_holdfast)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RedisError, _on_redis)
    app.add_exception_handler(Exception, _on_bug)


async def _on_holdfast(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.HoldfastError)
    return error_response(error)


async def _on_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return JSONResponse(error_body("invalid_json", "the body is not valid JSON"), 400)
    return JSONResponse(error_body("invalid_request", words_of(first)), 422)


def words_of(error: Mapping[str, Any]) -> str:
    """Place and reason of one error that pydantic found, without the value."""
    place = ".".join(str(part) for part in error["loc"]).encode(errors="replace").decode()
    return f"{place[:200]}: {error['msg']}" if place else str(error["msg"])


async def _on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = "invalid_json" if error.detail == _UNREADABLE else _NAMES.get(error.status_code, "http_error")
    return JSONResponse(error_body(code, str(error.detail)), error.status_code, error.headers)


async def _on_redis(_: Request, error: Exception) -> JSONResponse:
    _log.error("redis failed", error=str(error), rare=True)
    response = error_response(errors.RedisUnavailable())
    response.headers["retry-after"] = "1"
    return response


async def _on_bug(_: Request, error: Exception) -> JSONResponse:
    """Logged by the server; the caller learns nothing of our inside."""
    return JSONResponse(error_body("internal", "the node failed"), 500)
