"""Writes the results of an evaluation: scores as JSON, reports to read, counts for later comparisons."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from foodseg import __version__, storage
from foodseg.checkpoint.history import Validation
from foodseg.config.evaluation import EvalConfig
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest
from foodseg.eval.examples import draw_examples
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.report_html import Page, page_html
from foodseg.eval.report_markdown import condition_mark, scores_markdown
from foodseg.eval.result import EvaluationResult, LabelMaps, ScoredCheckpoint, ScoredZeroShot
from foodseg.eval.scoring import Labeller, Scored
from foodseg.metrics.calibration import write_confidence
from foodseg.metrics.per_image import Conditions, merge, write_image_counts

RESULT_FILES = (
    "images.parquet", "images-ema.parquet", "images-student.parquet", "confidence.parquet", "report.md",
    "report.html", "metrics.json",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingCurves:
    """How the scored model was trained: its validations, and (step, loss) points by name."""

    history: Sequence[Validation] = ()
    losses: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


def write_evaluation(
    out: str,
    result: EvaluationResult,
    scored: Scored,
    space: CommonSpace,
    manifest: Manifest,
    reader: RowReader,
    labeller: Labeller,
    curves: TrainingCurves,
) -> None:
    """Writes images.parquet, confidence.parquet (where there are confidences), report.md, report.html, metrics.json.

    Args:
        out: folder or URI.
        result, scored: the scores, and the counts that they were taken from.
        space: the label space of the counts. manifest: of the data set that was scored.
        reader: of the split that was scored. labeller: labels the best and the worst images once more.
    """
    classes = space.classes
    title, facts = f"{manifest.name} {result.split}", shown_facts(result)
    worst, best = draw_examples(reader, scored.images, labeller, space)
    matrix = merge(scored.images, len(classes))
    evaluation, conditions = result.evaluation, result.conditions
    condition = condition_mark(conditions)
    page = Page(
        title, facts, evaluation, matrix, classes, manifest, worst, best, curves.history, curves.losses, condition
    )
    counts = storage.join(out, "images.parquet")
    write_image_counts(counts, scored.images, classes.names, result.split, space.data, conditions)
    if scored.other is not None and result.other_weights is not None:
        kind = result.other_weights.weights
        counts = storage.join(out, f"images-{kind}.parquet")
        own = replace(conditions, weights=kind) if conditions else None
        write_image_counts(counts, scored.other, classes.names, result.split, space.data, own)
    if scored.confidence is not None:
        write_confidence(storage.join(out, "confidence.parquet"), scored.confidence)
    storage.write_text(storage.join(out, "report.md"), scores_markdown(evaluation, title, facts, condition))
    storage.write_text(storage.join(out, "report.html"), page_html(page))
    storage.write_json(storage.join(out, "metrics.json"), result.to_json())


def shown_facts(result: EvaluationResult) -> dict[str, str]:
    """Returns what was scored on what, by name."""
    subject = result.subject
    if isinstance(subject, LabelMaps):
        facts = {"scored": f"label maps in {subject.predictions}"}
    elif isinstance(subject, ScoredZeroShot):
        dense = subject.dense
        how = f"{subject.names} names, attention {dense.attention}"
        facts = {"scored": f"CLIP {subject.clip}, without training", "names": how}
    else:
        model = f"step {subject.step}, {subject.eval.weights} weights, configuration {subject.config_hash}"
        facts = {"scored": subject.checkpoint, "model": model}
    if result.other_weights is not None:
        other = result.other_weights
        facts[f"{other.weights} weights"] = f"mIoU {100 * other.scores.miou:.1f}"
    left_out = f", {result.unlabelled} unlabelled left out" if result.unlabelled else ""
    facts["data"] = f"{result.data}, split {result.split}, {result.images} images{left_out}"
    if result.space_map is not None:
        facts["label spaces"] = f"{' and '.join(result.mapped)} mapped by {result.space_map}"
    if result.partly_annotated:
        sources = ", ".join(f"{source} ({ids} ids)" for source, ids in result.partly_annotated.items())
        facts["partial labels"] = f"{sources}; background predicted as an id that its source lacks is not scored"
    if isinstance(subject, ScoredCheckpoint) and subject.text is not None:
        facts["text"] = subject.text
    note = conditions_note(result.conditions)
    if note is not None:
        facts["ingredients"] = note
    if not isinstance(subject, LabelMaps) and subject.refine is not None:
        facts["redrawn"] = f"along masks of Segment Anything: {subject.refine}"
    if isinstance(subject, ScoredCheckpoint) and subject.recheck is not None:
        facts["looked at again"] = f"regions of low confidence, by {subject.recheck}"
    if not isinstance(subject, LabelMaps):
        facts["settings"] = shown_settings(subject.eval, leave_out=("weights",))
    facts["written"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()) + f" by foodseg {__version__}"
    return facts


def shown_settings(config: EvalConfig, leave_out: Sequence[str] = ()) -> str:
    """Returns the keys and values of the section `eval` that are set and used, in one line."""
    unused = set(leave_out)
    if config.ingredients != "predicted":
        unused.add("ingredients_threshold")
    if config.restrict != "soft":
        unused.add("restrict_lambda")
    if config.restrict == "none":
        unused.add("restrict")
    if config.scales == (1.0,):
        unused.add("scales")
    if config.logit_adjustment == 0:
        unused.add("logit_adjustment")
    used = config.model_dump(mode="json", exclude=unused, exclude_none=True)
    return ", ".join(f"{key} {value}" for key, value in used.items())


def conditions_note(conditions: Conditions | None) -> str | None:
    """Says how a score was conditioned; None for a score over the whole vocabulary, and for label maps."""
    if conditions is None or conditions.ingredients == "vocabulary":
        return None
    source = f"the lists of {conditions.provided}"
    if conditions.ingredients == "predicted":
        source = "the model's image-level prediction"
    elif conditions.is_oracle:
        source = "the true classes of each image, an oracle: not comparable with other results"
    narrowed = "" if conditions.restrict == "none" else f"; class scores restricted to them ({conditions.restrict})"
    return f"{conditions.ingredients}, {source}{narrowed}"
