"""The page at `/` and its assets."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

WEB = Path(__file__).parent / "web"
FRESH = {"cache-control": "no-cache"}
"""Asked for again each time (and mostly answered with 304): modules of two versions do not go together."""

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    return FileResponse(WEB / "index.html", headers=FRESH)


class _Assets(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(FRESH)
        return response


def install(app: FastAPI) -> None:
    app.include_router(router)
    app.mount("/web", _Assets(directory=WEB), name="web")
