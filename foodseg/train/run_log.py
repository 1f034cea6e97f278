"""The logs of a run: progress lines on stderr, `log.jsonl`, TensorBoard files, MLflow where it is set.

Rank 0 only. Files are kept in a local folder. Where the run directory is in object storage, they are uploaded whole at
each checkpoint, since objects cannot be appended to.
"""

import json
import logging
import resource
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from foodseg import storage
from foodseg.config import ExperimentConfig
from foodseg.train.tracking import start_tracking

_log = logging.getLogger(__name__)


class RunLog:
    """Context manager around the loop."""

    def __init__(self, config: ExperimentConfig) -> None:
        self._uri = config.run.uri
        self._mlflow_uri = config.train.mlflow_uri
        self._config = config
        self._remote = not storage.is_local(self._uri)
        self._staging = tempfile.TemporaryDirectory(prefix="foodseg-log-") if self._remote else None
        self._folder = Path(self._staging.name) if self._staging else Path(storage.absolute(self._uri))

    def __enter__(self) -> "RunLog":
        # imported here: TensorBoard takes a second, and evaluation does not need it
        from torch.utils.tensorboard import SummaryWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        where = storage.join(self._uri, "log.jsonl")
        if self._remote and storage.exists(where):
            storage.download(where, self._folder / "log.jsonl")
        begun = (self._folder / "log.jsonl").exists()
        self._lines = (self._folder / "log.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(self._folder / "tensorboard"))
        self._tracking = start_tracking(self._mlflow_uri, self._config, resume=begun) if self._mlflow_uri else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()
        self._lines.close()
        if kind is None:
            self._upload()
        if self._tracking is not None:
            # Ctrl-C and the SystemExit with which Tune stops a trial are not an `Exception`
            stopped = kind is not None and not issubclass(kind, Exception)
            self._tracking.end("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")
        if self._staging is not None:
            self._staging.cleanup()

    def write(self, step: int, values: dict[str, Any], text: str) -> None:
        """Writes one line of numbers to every log, and `text` to stderr."""
        _log.info("%s", text)
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        if self._tracking is not None:
            self._tracking.log(numbers, step)

    def publish(self) -> None:
        """Makes everything written so far visible to others."""
        self._board.flush()
        self._upload()

    def _upload(self) -> None:
        if self._remote:
            for path in sorted(p for p in self._folder.rglob("*") if p.is_file()):
                storage.upload(path, storage.join(self._uri, path.relative_to(self._folder).as_posix()))


def memory_mib(device: torch.device) -> float:
    """Returns the most that tensors took on this GPU so far, or without a GPU that this process took, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10  # bytes there, KiB elsewhere
