"""The log format of the endpoint: one JSON object per line, with the id of the request that it belongs to.

{"time": "2026-03-01T12:00:00.123+00:00", "level": "INFO", "message": "request", "request_id": "...", "status": 200}
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime, timezone

REQUEST_ID: ContextVar[str | None] = ContextVar("foodseg_request_id", default=None)


class JsonLines(logging.Formatter):
    """Formats a record as JSON; `extra={"fields": {...}}` adds keys. The message of an exception is truncated."""

    def __init__(self, request_id: Callable[[], str | None] = REQUEST_ID.get) -> None:
        """`request_id` returns the id of the current request, if any."""
        super().__init__()
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        """Returns one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": self._request_id(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            # truncated, because some libraries quote the data that they could not read
            line["exception"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"[:200]
            line["frames"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return json.dumps(line)


def log_json_to_stderr(request_id: Callable[[], str | None] = REQUEST_ID.get) -> None:
    """Sends foodseg's log lines to stderr as JSON, and removes the handlers that were set before."""
    logger = logging.getLogger("foodseg")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # sys.__stderr__: in throughput mode Serve redirects sys.stderr to a log that it buffers
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonLines(request_id))
    logger.handlers = [handler]
