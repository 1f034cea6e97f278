"""MLflow, where `train.mlflow_uri` is set: one of its runs for each training, whether that was interrupted or not."""

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from foodseg import storage
from foodseg.config import ExperimentConfig
from foodseg.config.load import leaves
from foodseg.errors import Unavailable, UserError

EXPERIMENT = "foodseg"
RUN_URI = "foodseg.run_uri"  # tag: where the run lies
KNOCK_SECONDS = 10  # a server that is up answers at once
_PARAMS = 100  # the most that MLflow takes at once
_log = logging.getLogger(__name__)


def require_mlflow(uri: str) -> None:
    """Raises UserError where MLflow is not installed, and Unavailable where it does not answer at the address."""
    mlflow = _mlflow()
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):  # MLflow itself would try for minutes
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=KNOCK_SECONDS).close()
        except (OSError, ValueError) as error:
            raise Unavailable(f"train.mlflow_uri {storage.redact(uri)}: nobody answers there ({error})") from None
    with _errors(mlflow, uri):
        mlflow.MlflowClient(uri).search_experiments(max_results=1)


class Tracking:
    """The run in MLflow that is open in this process.

    A server that goes away in mid-run is said in the log once. It costs the rest of the curves there and nothing else:
    `log.jsonl` has all of them.
    """

    def __init__(self, mlflow: Any, uri: str) -> None:
        self._mlflow, self._uri, self._lost = mlflow, uri, False

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Adds numbers to the run's curves."""
        self._try(lambda: self._mlflow.log_metrics(numbers, step=step))

    def end(self, status: str) -> None:
        """Closes the run as FINISHED, FAILED or KILLED."""
        self._try(lambda: self._mlflow.end_run(status))

    def _try(self, tell: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            tell()
        except Exception as error:  # MLflow raises of its own, of the file system's, and bare ones
            self._lost = True
            _log.warning("the run goes on without MLflow (%s): %s", *map(storage.redact, (self._uri, str(error))))


def start_tracking(uri: str, config: ExperimentConfig, *, resume: bool) -> Tracking:
    """Begins a run in the experiment "foodseg", named as the run directory, with every setting as a parameter.

    Args:
        resume: go on with the run that was begun for the same `run.uri`, if there is one.

    Raises:
        UserError: MLflow is missing, or refuses the address.
    """
    mlflow = _mlflow()
    with _errors(mlflow, uri):
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
        begun = _runs_of(mlflow, uri, config.run.uri) if resume else []
        if begun:
            mlflow.start_run(run_id=begun[0].info.run_id)
        else:
            name = config.run.uri.rstrip("/").rsplit("/", 1)[-1]
            mlflow.start_run(run_name=name, tags={RUN_URI: _tagged(config.run.uri)})
            tree = config.model_dump(mode="json")
            params = list(leaves(tree))
            for start in range(0, len(params), _PARAMS):
                mlflow.log_params(dict(params[start : start + _PARAMS]))
            mlflow.log_dict(tree, "config.json")
    return Tracking(mlflow, uri)


def end_tracking(config: ExperimentConfig) -> None:
    """Ends the MLflow run of a training whose process was ended from outside; does nothing where that is done.

    A server that does not answer is said in the log and changes nothing.
    """
    uri = config.train.mlflow_uri
    if uri is None:
        return
    try:
        require_mlflow(uri)
        mlflow = _mlflow()
        with _errors(mlflow, uri):
            for run in _runs_of(mlflow, uri, config.run.uri):
                if run.info.status == "RUNNING":
                    mlflow.MlflowClient(uri).set_terminated(run.info.run_id, status="KILLED")
    except UserError as error:
        _log.warning("the MLflow run of %s stays open: %s", storage.redact(config.run.uri), error)


def _runs_of(mlflow: Any, uri: str, run_uri: str) -> list[Any]:
    """Returns the MLflow runs of a run directory, the newest first."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    found: list[Any] = client.search_runs([experiment.experiment_id], f"tags.`{RUN_URI}` = '{_tagged(run_uri)}'")
    return found


def _tagged(run_uri: str) -> str:
    """Without secrets, and without the quotes that MLflow's filters do not take."""
    return quote(storage.redact(storage.absolute(run_uri)), safe=":/")


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError:
        raise UserError("train.mlflow_uri is set, but MLflow is missing: pip install 'foodseg[mlflow]'") from None
    return mlflow


@contextlib.contextmanager
def _errors(mlflow: Any, uri: str) -> Iterator[None]:
    try:
        yield
    except mlflow.MlflowException as error:
        raise UserError(
            f"train.mlflow_uri {storage.redact(uri)}: MLflow refuses it ({storage.redact(str(error))})"
        ) from None
