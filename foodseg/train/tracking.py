"""MLflow, where `train.mlflow_uri` is set: one MLflow run for each training, whether it was interrupted or not."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from foodseg import storage
from foodseg.config import ExperimentConfig
from foodseg.config.load import leaves
from foodseg.errors import Unavailable, UserError

EXPERIMENT = "foodseg"
RUN_URI = "foodseg.run_uri"  # tag: the run directory
CONNECT_SECONDS = 10  # a server that is up answers at once
_PARAMS = 100  # the most that MLflow takes at once
_log = logging.getLogger(__name__)


def require_mlflow(uri: str) -> None:
    """Raises UserError where MLflow is not installed, and Unavailable where it does not answer at the address."""
    mlflow = _mlflow()
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):  # MLflow itself would retry for minutes
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise Unavailable(f"train.mlflow_uri {storage.redact(uri)}: no server answers there ({error})") from None
    with _errors(uri):
        mlflow.MlflowClient(uri).search_experiments(max_results=1)


class Tracking:
    """The MLflow run to which a training writes.

    If the server goes away during the run, this is logged once. Only the rest of the curves in MLflow is lost:
    `log.jsonl` has all of them.
    """

    def __init__(self, client: Any, config: ExperimentConfig, run_id: str) -> None:
        self._client, self._config, self._run_id = client, config, run_id
        self._lost = False

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Adds numbers to the run's curves."""
        if self._lost:
            return
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        try:
            with _errors(str(self._config.train.mlflow_uri)):
                self._client.log_batch(
                    self._run_id, [Metric(name, value, now, step) for name, value in numbers.items()]
                )
        except UserError as error:
            self._lost = True
            _log.warning("the run continues without MLflow: %s", error)

    def end(self, status: str) -> None:
        """Closes the run as FINISHED, FAILED or KILLED."""
        _close(self._config, lambda client: client.set_terminated(self._run_id, status=status))


def start_tracking(uri: str, config: ExperimentConfig, *, resume: bool) -> Tracking:
    """Begins a run in the experiment "foodseg", named as the run directory, with every setting as a parameter.

    Args:
        resume: resume the MLflow run that was begun for the same `run.uri`, if there is one.

    Raises:
        UserError: MLflow is missing, or refuses the address.
    """
    mlflow = _mlflow()
    with _errors(uri):
        from mlflow.entities import Param
        from mlflow.tracking.context.registry import resolve_tags

        client = mlflow.MlflowClient(uri)
        mlflow.set_tracking_uri(uri)
        experiment = mlflow.set_experiment(EXPERIMENT)  # several runs may begin at once: one of them creates it
        begun = _runs_of(client, config.run.uri) if resume else []
        if begun:
            client.update_run(begun[0].info.run_id, status="RUNNING")
            return Tracking(client, config, begun[0].info.run_id)
        name = config.run.uri.rstrip("/").rsplit("/", 1)[-1]
        tags = resolve_tags({RUN_URI: _tagged(config.run.uri)})
        run_id = client.create_run(experiment.experiment_id, tags=tags, run_name=name).info.run_id
        tree = config.model_dump(mode="json")
        params = [Param(key, str(value)) for key, value in leaves(tree)]
        for start in range(0, len(params), _PARAMS):
            client.log_batch(run_id, params=params[start : start + _PARAMS])
        client.log_dict(run_id, tree, "config.json")
    return Tracking(client, config, run_id)


def end_tracking(config: ExperimentConfig, status: str) -> None:
    """Ends the MLflow run of a training as `status`, if it has not ended: its process may have been ended from outside.

    If the server does not answer, this is logged and changes nothing else.
    """
    if config.train.mlflow_uri is None:
        return

    def close(client: Any) -> None:
        for run in _runs_of(client, config.run.uri):
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, status=status)

    _close(config, close)


def _close(config: ExperimentConfig, close: Callable[[Any], None]) -> None:
    uri = str(config.train.mlflow_uri)
    try:
        require_mlflow(uri)
        with _errors(uri):
            close(_mlflow().MlflowClient(uri))
    except UserError as error:
        _log.warning("the MLflow run of %s stays open: %s", storage.redact(config.run.uri), error)


def _runs_of(client: Any, run_uri: str) -> list[Any]:
    """Returns the MLflow runs of a run directory, the newest first."""
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
def _errors(uri: str) -> Iterator[None]:
    """Turns whatever MLflow raises into one sentence: its own errors, those of files and databases, and bare ones."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"train.mlflow_uri {storage.redact(uri)}: MLflow refuses it ({storage.redact(str(error))})"
        ) from None
