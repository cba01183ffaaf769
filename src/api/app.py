"""The application: `uvicorn src.api.app:app`, or `make run`, which brings a PostgreSQL along."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pulsepool.fastapi import install
from src.api import health_routes, page, routes, sync_routes
from src.api.dependencies import sync_admission
from src.config import settings
from src.models.async_database import close_async_database, init_async_database
from src.models.database import database
from src.observability.logs import setup_logging

logger = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024
"""Bytes; the longest question in the widest encoding, escaped, is a fifth of it."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the asynchronous engine before the first request; let what is under way finish after the last."""
    setup_logging(settings.log_level)
    app.state.sync_admission = sync_admission()
    init_async_database()
    logger.info("Async database connections initialized")
    yield
    await close_async_database()


async def explain_invalid(_: Request, error: Exception) -> JSONResponse:
    """Say what is wrong without echoing it: what people ask here is nobody else's, and may not even be text."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in problems]
    return JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY)


async def explain_http(_: Request, error: Exception) -> JSONResponse:
    """FastAPI answers 400 to a body that is no UTF-8; it is unprocessable like any other input that is no text."""
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.__cause__, UnicodeDecodeError):
        detail = [{"type": "unicode", "loc": ["body"], "msg": "the body is not UTF-8 text"}]
        return JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


app = FastAPI(title="EDBotv8", version="8.0", lifespan=lifespan, max_body_size=LARGEST_BODY)
app.add_exception_handler(RequestValidationError, explain_invalid)
app.add_exception_handler(HTTPException, explain_http)
app.include_router(routes.router)
app.include_router(sync_routes.router)
app.include_router(health_routes.router)
app.include_router(page.router)
install(app, database)
