"""The log format of the endpoint: one JSON object per line, with the id of the request that it belongs to.

{"time": "2026-03-01T12:00:00.123456+00:00", "level": "INFO", "message": "request", "request_id": "...", "status": 200}
"""

import logging
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter

REQUEST_ID: ContextVar[str | None] = ContextVar("foodseg_request_id", default=None)
_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception"}


class JsonLines(JsonFormatter):
    """Formats a record as JSON; `extra={...}` adds keys. The message of an exception is truncated."""

    def __init__(self, request_id: Callable[[], str | None] = REQUEST_ID.get) -> None:
        """`request_id` returns the id of the current request, if any."""
        super().__init__(["levelname", "name", "message"], timestamp="time", rename_fields=_NAMES)
        self._request_id = request_id

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["request_id"] = self._request_id()
        super().add_fields(log_data, record, message_dict)
        if record.exc_info:
            frames = traceback.extract_tb(record.exc_info[2])
            log_data["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]

    def formatException(self, ei: Any) -> str:  # noqa: N802, logging's name
        # truncated, because some libraries quote the data that they could not read
        return f"{ei[0].__name__}: {ei[1]}"[:200] if ei[0] is not None else ""


def log_json_to_stderr(request_id: Callable[[], str | None] = REQUEST_ID.get) -> None:
    """Sends foodseg's log lines to stderr as JSON, and removes the handlers that were set before."""
    logger = logging.getLogger("foodseg")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # sys.__stderr__: in throughput mode Serve redirects sys.stderr to a log that it buffers
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonLines(request_id))
    logger.handlers = [handler]
