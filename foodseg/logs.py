"""Logs go to stderr, so that stdout belongs to results.

Below everything else, since the command line and processes that are started without it both begin with this.
"""

import logging
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """Sends foodseg's log lines to stderr, each with its time; safe to call again."""
    logger = logging.getLogger("foodseg")
    logger.setLevel(level)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
