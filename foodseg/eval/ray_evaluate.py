"""Evaluation over a cluster: every row of a split exactly once, whole-number counts merged on the driver.

    evaluate("runs/a", data="s3://bucket/foodmix", split="test", out="runs/a/test")

writes `metrics.json`, `report.md` and `pictures.parquet` (counts of each picture, for `compare`) to `out`.
"""

import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from foodseg import storage
from foodseg.checkpoint import Checkpoint, load_checkpoint, load_model
from foodseg.checkpoint_files import resolve_checkpoint
from foodseg.classes import ClassTable
from foodseg.config import parse_config
from foodseg.config.load import config_hash, with_eval_overrides
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest, read_manifest
from foodseg.errors import UserError
from foodseg.eval.evaluate import Labeller, PredictionFolder, chunks, read_subsets, score_rows
from foodseg.eval.pictures import PictureCounts, merge, write_pictures
from foodseg.eval.report import scores_markdown
from foodseg.metrics import Scores, scores
from foodseg.predict.device import pick_device
from foodseg.predict.predictor import Predictor
from foodseg.progress import Progress
from foodseg.ray_session import cores, expected_failure, ray_session


def evaluate(
    checkpoint: str | None,
    *,
    data: str,
    split: str,
    out: str,
    predictions: str | None = None,
    subsets: Sequence[str] = (),
    pictures: str | None = None,
    overrides: Sequence[str] = (),
    workers: int = 1,
    address: str | None = None,
    test_log: str = "evidence/test_openings.jsonl",
) -> dict[str, Any]:
    """Scores a checkpoint, or a folder of label maps, on a split.

    Args:
        checkpoint: a run, a checkpoint directory or a URI of either; None with `predictions`.
        data: prepared data set. split: its split; "test" is noted in `test_log`.
        out: folder or URI for the results.
        predictions: folder of `<image_id>.png` label maps, scored instead of a checkpoint.
        subsets: files of class ids, each scored under its own name, with background.
        pictures: file of image ids, one a line; only these are scored.
        overrides: `eval.key=value`, instead of what the checkpoint was trained with.
        workers: processes that score; 0 = this one, without Ray.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: label spaces differ, no such split, missing or wrong label maps, unknown picture ids.
    """
    if (checkpoint is None) == (predictions is None):
        raise UserError("give either a CHECKPOINT or --predictions DIR, and not both")
    started = time.monotonic()
    data = storage.absolute(data)
    manifest = read_manifest(data)
    reader = RowReader(data, manifest, [split])
    classes = manifest.class_table
    named_subsets = read_subsets(subsets, classes)
    rows = _chosen_rows(reader, pictures)
    build: Callable[[], Labeller]
    if checkpoint is not None:
        uri = resolve_checkpoint(checkpoint)
        loaded = load_checkpoint(uri)
        _refuse_other_label_space(loaded, manifest)
        config = with_eval_overrides(loaded.config, overrides)
        build = CheckpointLabeller(uri, config.model_dump(mode="json"))
        facts = {
            "checkpoint": storage.redact(uri), "step": loaded.step, "weights": config.eval.weights,
            "config_hash": config_hash(config), "eval": config.eval.model_dump(mode="json"),
        }  # fmt: skip
        trained: Sequence[int] | None = loaded.trained_ids
    else:
        assert predictions is not None
        folder = PredictionFolder(storage.absolute(predictions), classes)
        build, trained = lambda: folder, None
        facts = {"predictions": storage.redact(predictions)}
    counts = list(_score(reader, rows, build, classes, workers, address))
    if not counts:
        raise UserError(f"the split {split!r} has no labelled picture to score")
    result = scores(merge(counts, len(classes)), classes.names, subsets=named_subsets, trained_ids=trained)
    metrics = {
        **facts,
        "data": manifest.identity,
        "split": split,
        "pictures": len(counts),
        "unlabelled": len(rows) - len(counts),
        "seconds": round(time.monotonic() - started, 1),
        "scores": result.to_json(),
    }
    _write_results(out, metrics, result, counts, classes, manifest)
    if split == "test":
        note_test_opening(test_log, metrics)
    return metrics


class CheckpointLabeller:
    """Makes a labeller from a checkpoint, where it is called: pickled without its weights."""

    def __init__(self, uri: str, config: dict[str, Any]) -> None:
        self._uri, self._config = uri, config

    def __call__(self) -> Labeller:
        config = parse_config(self._config)
        model = load_model(load_checkpoint(self._uri), config.eval.weights)
        predictor = Predictor(model, config.eval, pick_device(), config.train.precision)
        return lambda image_id, image, size: predictor.label_file(image)


def note_test_opening(path: str, metrics: dict[str, Any]) -> None:
    """Appends one line to the log of every opening of a test split: time, configuration, data, score."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config_hash": metrics.get("config_hash"),
        "what": metrics.get("checkpoint") or metrics.get("predictions"),
        "data": metrics["data"],
        "pictures": metrics["pictures"],
        "miou": metrics["scores"]["miou"],
    }
    before = storage.read_text(path) if storage.exists(path) else ""
    storage.write_text(path, before + json.dumps(line) + "\n")


def _chosen_rows(reader: RowReader, pictures: str | None) -> list[int]:
    if pictures is None:
        return list(range(len(reader)))
    wanted = storage.read_text(pictures).split()
    place = {image_id: row for row, image_id in enumerate(reader.column("image_id").to_pylist())}
    unknown = [image_id for image_id in wanted if image_id not in place]
    if not wanted:
        raise UserError(f"--pictures {pictures}: there is no picture id in it; write one a line")
    if unknown:
        others = f" (nor are {len(unknown) - 1} others)" if len(unknown) > 1 else ""
        raise UserError(f"--pictures {pictures}: {unknown[0]!r} is not in the split{others}; list ids of that split")
    return sorted(place[image_id] for image_id in wanted)


def _refuse_other_label_space(checkpoint: Checkpoint, manifest: Manifest) -> None:
    own, data = checkpoint.classes.names, manifest.classes
    if own != data:
        differing = next(
            (i for i, (a, b) in enumerate(zip(own, data, strict=False)) if a != b), min(len(own), len(data))
        )
        names = [repr(names[differing]) if differing < len(names) else "nothing" for names in (own, data)]
        raise UserError(
            f"the checkpoint was trained in another label space: id {differing} is {names[0]} there and {names[1]} "
            f"in the data set ({len(own)} and {len(data)} ids)"
        )


def _score(
    reader: RowReader,
    rows: Sequence[int],
    build: Callable[[], Labeller],
    classes: ClassTable,
    workers: int,
    address: str | None,
) -> Iterator[PictureCounts]:
    parts = chunks(rows)
    with Progress("scoring pictures", len(rows)) as progress:
        if workers == 0:
            labeller = build()
            for part in parts:
                yield from score_rows(reader, part, labeller, classes)
                progress.advance(len(part))
            return
        with ray_session(address, logical_cpus=max(workers, cores()) + 1):
            try:
                for counted, size in _score_on_ray(reader, parts, build, classes, min(workers, len(parts))):
                    yield from counted
                    progress.advance(size)
            except ray.exceptions.RayError as error:
                raise expected_failure(error) or error from None


def _score_on_ray(
    reader: RowReader, parts: Sequence[list[int]], build: Callable[[], Labeller], classes: ClassTable, workers: int
) -> Iterator[tuple[list[PictureCounts], int]]:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else a UserError loses its type and its sentence on the way here
    context.execution_options.preserve_order = True  # results in the order of the rows, whoever was faster
    listed = ray.data.from_items([{"rows": part} for part in parts], override_num_blocks=len(parts))
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
    scored = listed.map_batches(
        _Scorer,
        fn_constructor_args=(reader, build, classes),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=gpus,
        compute=ActorPoolStrategy(size=workers),
    )
    for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in table.to_pylist():
            yield pickle.loads(row["counts"]), row["size"]


class _Scorer:
    """One scoring process; loads the model once."""

    def __init__(self, reader: RowReader, build: Callable[[], Labeller], classes: ClassTable) -> None:
        self._reader, self._labeller, self._classes = reader, build(), classes

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = [row for part in table.column("rows").to_pylist() for row in part]
        counted = score_rows(self._reader, rows, self._labeller, self._classes)
        return pa.table({"counts": pa.array([pickle.dumps(counted)], pa.large_binary()), "size": [len(rows)]})


def _write_results(
    out: str,
    metrics: dict[str, Any],
    result: Scores,
    counts: list[PictureCounts],
    classes: ClassTable,
    manifest: Manifest,
) -> None:
    shown = {
        "scored": metrics.get("checkpoint") or metrics.get("predictions", ""),
        "data": f"{metrics['data']}, split {metrics['split']}, {metrics['pictures']} pictures",
    }
    title = f"{manifest.name} {metrics['split']}"
    write_pictures(storage.join(out, "pictures.parquet"), counts, classes.names, metrics["split"], manifest.identity)
    storage.write_text(storage.join(out, "report.md"), scores_markdown(result, title, shown))
    storage.write_json(storage.join(out, "metrics.json"), metrics)
