"""What an evaluation gives back: what was scored on what, and all scores; `to_json` is the content of `metrics.json`.

found = evaluate("runs/a", data="s3://bucket/foodmix", split="val", out="scores")
print(found.evaluation.scores.miou)
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from foodseg.config.evaluation import EvalConfig
from foodseg.config.zero_shot import DenseConfig
from foodseg.eval.scores import Evaluation
from foodseg.metrics.confusion import Scores
from foodseg.metrics.per_image import Conditions


@dataclass(frozen=True)
class ScoredCheckpoint:
    """The checkpoint that was scored, and how.

    checkpoint: its URI without secrets. step: updates done. text: where its class embeddings are from; None = it has
    none. temperature: that its logits were divided by. provided, refine, recheck: as in `Conditions`.
    """

    checkpoint: str
    step: int
    config_hash: str
    eval: EvalConfig
    text: str | None
    temperature: float
    provided: str | None = None
    refine: str | None = None
    recheck: str | None = None

    @property
    def conditions(self) -> Conditions:
        shown = self.eval
        return Conditions(shown.weights, shown.ingredients, shown.restrict, self.provided, self.refine, self.recheck)

    def to_json(self) -> dict[str, object]:
        """Returns the part of metrics.json that is about the checkpoint."""
        return {
            "checkpoint": self.checkpoint,
            "step": self.step,
            "weights": self.eval.weights,
            "config_hash": self.config_hash,
            "eval": self.eval.model_dump(mode="json"),
            "conditions": self.conditions.to_json(),
            **({} if self.text is None else {"text": self.text}),
            "temperature": self.temperature,
        }


@dataclass(frozen=True)
class ScoredZeroShot:
    """CLIP with `names` names, and how patches were compared with them: nothing was trained.

    clip: the model and its weights, without secrets. refine: as in `Conditions`.
    """

    clip: str
    names: int
    config_hash: str
    dense: DenseConfig
    eval: EvalConfig
    refine: str | None = None

    def to_json(self) -> dict[str, object]:
        """Returns the part of metrics.json that is about CLIP."""
        return {
            "zero_shot": self.clip,
            "names": self.names,
            "config_hash": self.config_hash,
            "dense": self.dense.model_dump(mode="json"),
            "eval": self.eval.model_dump(mode="json"),
            **({} if self.refine is None else {"refine": self.refine}),
        }


@dataclass(frozen=True)
class LabelMaps:
    """The folder of label maps that was scored, its URI without secrets."""

    predictions: str

    def to_json(self) -> dict[str, object]:
        """Returns the part of metrics.json that is about the label maps."""
        return asdict(self)


Subjects = ScoredCheckpoint | ScoredZeroShot | LabelMaps


@dataclass(frozen=True)
class OtherWeights:
    """The scores of a checkpoint's other weights, "student" or "ema", from the same pass over the images."""

    weights: str
    scores: Scores


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """The scores of a checkpoint, of CLIP or of label maps on a split.

    space_map: the file of `--map`, without secrets; None without one. mapped: the sides that it mapped, of "data" and
    "predictions".
    partly_annotated: how many ids each source annotates that does not annotate all.
    data: identity of the data set, and of the map of its masks.
    images: how many were scored. unlabelled: how many were left out, as they have no mask. seconds: that it took.
    other_weights: None for label maps, and for a checkpoint with one kind of weights.
    """

    subject: Subjects
    space_map: str | None
    mapped: tuple[str, ...]
    partly_annotated: Mapping[str, int]
    data: str
    split: str
    images: int
    unlabelled: int
    seconds: float
    evaluation: Evaluation
    other_weights: OtherWeights | None

    @property
    def conditions(self) -> Conditions | None:
        """What the scores depend on; None for label maps, and for CLIP, which is not conditioned."""
        return self.subject.conditions if isinstance(self.subject, ScoredCheckpoint) else None

    def __repr__(self) -> str:
        subject, conditions = self.subject, self.conditions
        what = name_of(subject)
        how = "" if conditions is None else f", {conditions.weights} weights, ingredients {conditions.ingredients}"
        return (
            f"EvaluationResult({what!r} on {self.split} of {self.data}, {self.images} images{how}: "
            f"mIoU {100 * self.evaluation.scores.miou:.1f} %)"
        )

    def to_json(self) -> dict[str, object]:
        """Returns the content of metrics.json; keys of what there is not are left out."""
        return {
            **self.subject.to_json(),
            **({} if self.space_map is None else {"map": self.space_map, "mapped": self.mapped}),
            **({"partly_annotated": dict(self.partly_annotated)} if self.partly_annotated else {}),
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "unlabelled": self.unlabelled,
            "seconds": self.seconds,
            **asdict(self.evaluation),
            **({} if self.other_weights is None else {"other_weights": asdict(self.other_weights)}),
        }


def name_of(subject: Subjects) -> str:
    """Returns the checkpoint, the folder of label maps or the CLIP model that was scored."""
    if isinstance(subject, ScoredCheckpoint):
        return subject.checkpoint
    return subject.predictions if isinstance(subject, LabelMaps) else f"zero-shot {subject.clip}"
