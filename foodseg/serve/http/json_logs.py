"""Log lines of the endpoint: one JSON object each, with the id of the request that they belong to.

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
    """Formats a record as JSON; `extra={"fields": {...}}` adds keys. An exception's words are cut short."""

    def __init__(self, request_id: Callable[[], str | None] = REQUEST_ID.get) -> None:
        """`request_id` says which request the code that logs works for, if any."""
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
            # cut, because some libraries quote the data that they stumbled over
            line["exception"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"[:200]
            line["places"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return json.dumps(line)


def log_json_to_stderr(request_id: Callable[[], str | None] = REQUEST_ID.get) -> None:
    """Sends foodseg's log lines to stderr as JSON, instead of what was set before."""
    logger = logging.getLogger("foodseg")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # the process's own: in throughput mode Serve hands what is written to sys.stderr to a log that it holds back
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonLines(request_id))
    logger.handlers = [handler]
