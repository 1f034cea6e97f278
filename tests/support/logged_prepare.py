"""`data prepare` whose tasks write down that they begin, and of which one waits: what a test kills or lets go.

python -m tests.support.logged_prepare SRC DST LOG [TASK]        # TASK waits until there is a file LOG.go
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foodseg.logs import log_to_stderr
from foodseg.prepare import audit, prepared_rows, ray_prepare
from foodseg.prepare.record_batches import RecordBatch


def logged(work: Callable[..., bytes], log: Path, held: str | None) -> Any:
    def task(inputs: Any, **settings: Any) -> bytes:
        batch = isinstance(inputs, RecordBatch)
        name = f"audit {inputs.records[0].image_id}" if batch else inputs.path.partition("/")[2]
        with log.open("a") as stream:
            stream.write(f"{name}\n")
        while name == held and not Path(f"{log}.go").exists():
            time.sleep(0.1)
        return work(inputs, **settings)

    return task


def log_tasks(log: Path, patch: pytest.MonkeyPatch, held: str | None = None) -> None:
    """Replaces the functions of the tasks, here alone: workers get them pickled by value. Tasks become small."""
    patch.setattr(ray_prepare, "_audit_batch", logged(ray_prepare._audit_batch, log, held))
    patch.setattr(ray_prepare, "write_part", logged(ray_prepare.write_part, log, held))
    patch.setattr(audit, "AUDIT_BATCH", 2)
    patch.setattr(prepared_rows, "MAX_ROWS", 3)


if __name__ == "__main__":
    log_to_stderr()
    log_tasks(Path(sys.argv[3]), pytest.MonkeyPatch(), sys.argv[4] if len(sys.argv) > 4 else None)
    ray_prepare.prepare_dataset(sys.argv[1], sys.argv[2], max_bad=0.1)
