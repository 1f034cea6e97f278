"""The model card of a checkpoint: README.md as the Hugging Face hub reads it, with the scores and their conditions.

    text = model_card(checkpoint, "owner/name", card_scores(checkpoint, uri, [found.to_json()]))

Every number in it comes from the checkpoint or from an evaluation of it. Who publishes a model chooses its licence:
without one the metadata has none, and the card says where to put it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from foodseg import __version__
from foodseg.checkpoint.checkpoint import Checkpoint
from foodseg.errors import UserError

LIBRARY = "foodseg"
VALIDATION, EVALUATION = "validation in training", "foodseg evaluate"


@dataclass(frozen=True)
class CardScore:
    """Scores on a split, each in [0, 1], with what they depend on.

    data: identity of the data set, name@v<generation>-<digest>. images: how many were scored; None = not recorded.
    weights, ingredients, restrict: keys of the section `eval`. miou_foreground: None = not recorded.
    by: what scored it.
    """

    data: str
    split: str
    images: int | None
    weights: str
    ingredients: str
    restrict: str
    miou: float
    miou_foreground: float | None
    macc: float
    aacc: float
    by: str


def validation_score(checkpoint: Checkpoint) -> CardScore | None:
    """Returns the scores of the validation after the last update; None where that was not validated."""
    last, settings = checkpoint.history[-1] if checkpoint.history else None, checkpoint.config.eval
    if last is None or last.step != checkpoint.step:
        return None
    return CardScore(
        data=checkpoint.data,
        split=str(checkpoint.config.data.val_split),
        images=None,
        weights=settings.weights,
        ingredients=settings.ingredients,
        restrict=settings.restrict,
        miou=last.miou,
        miou_foreground=None,
        macc=last.macc,
        aacc=last.aacc,
        by=VALIDATION,
    )


def evaluation_score(metrics: Mapping[str, Any], uri: str, checkpoint: Checkpoint) -> CardScore:
    """Returns the scores of an evaluation, from what `metrics.json` holds.

    Args:
        uri: of the checkpoint, without secrets.

    Raises:
        UserError: it is an evaluation of something else.
    """
    scored = metrics.get("checkpoint", metrics.get("predictions"))
    if (scored, metrics.get("step")) != (uri, checkpoint.step):
        raise UserError(
            f"evaluations: one is of {scored}, step {metrics.get('step')}, and the model is {uri}, step "
            f"{checkpoint.step}: a model card has the scores of its own model"
        )
    scores, conditions = metrics["scores"], metrics["conditions"]
    own = checkpoint.config.eval.model_dump(mode="json")
    changed = [
        f"{key} {value}" for key, value in metrics["eval"].items() if key not in conditions and value != own[key]
    ]
    mapped = ["label spaces mapped"] if "map" in metrics else []
    return CardScore(
        data=metrics["data"],
        split=metrics["split"],
        images=metrics["images"],
        weights=conditions["weights"],
        ingredients="provided by lists" if conditions.get("provided") else conditions["ingredients"],
        restrict=conditions["restrict"],
        miou=scores["miou"],
        miou_foreground=scores["miou_foreground"],
        macc=scores["macc"],
        aacc=scores["aacc"],
        by=", ".join([EVALUATION, *changed, *mapped]),
    )


def card_scores(checkpoint: Checkpoint, uri: str, evaluations: Sequence[Mapping[str, Any]]) -> list[CardScore]:
    """Returns the scores of evaluations, after that of the last validation where none of them repeats it.

    Args:
        uri: of the checkpoint, without secrets. evaluations: contents of `metrics.json`.

    Raises:
        UserError: one is an evaluation of something else.
    """
    scored = [evaluation_score(each, uri, checkpoint) for each in evaluations]
    validated = validation_score(checkpoint)
    repeated = validated is not None and any(
        replace(each, images=None, miou_foreground=None) == replace(validated, by=EVALUATION) for each in scored
    )
    return scored if validated is None or repeated else [validated, *scored]


def model_card(checkpoint: Checkpoint, name: str, scores: Sequence[CardScore], license: str | None = None) -> str:
    """Returns the text of the card.

    Args:
        name: title; "owner/name" where the model will be on the hub. license: an identifier of the hub, such as
            "cc-by-4.0" or "other"; None = to be added.
    """
    metadata = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="image-segmentation",
        tags=[LIBRARY, "food", "semantic-segmentation"],
        license=license,
        model_name=name.rpartition("/")[2],
        eval_results=[_eval_result(score) for score in scores] or None,
    )
    settings, classes = checkpoint.config.eval, checkpoint.classes
    parts = _parts(checkpoint)
    side = f"{settings.longest_side} pixels" if settings.longest_side else "its own size"
    if settings.scales != (1.0,):
        side += " x " + ", ".join(f"{scale:g}" for scale in settings.scales)
    trained = len([index for index in checkpoint.trained_ids if index])
    location = f"hf://{name}" if "/" in name else name
    return f"""---
{metadata.to_yaml().strip()}
---

# {name}

Which ingredient is where on an image of food: semantic segmentation with {len(classes) - 1} ingredients and background.
Saved by foodseg {__version__}.

## Use

```python
import foodseg  # pip install foodseg

model = foodseg.load("{location}")
found = model.predict("lunch.jpg")
print([(each.name, round(each.share_of_food, 2)) for each in found.ingredients])
found.overlay().save("lunch.overlay.jpg")
```

## Model

{parts}; {checkpoint.step} updates, {settings.weights} weights by default. An
image is shown to the model with its longer side at {side}. `config.json` has the whole configuration.

## Data

Trained on the prepared data set `{checkpoint.data}` (name, generation, digest of its shards). {trained} of the
{len(classes) - 1} ingredients have pixels in its training splits{_never(checkpoint)}.

## Scores

{_scores(scores)}

## Ingredients

{", ".join(classes.names[1:])}

## Licence

{_licence(license)}
"""


def _eval_result(score: CardScore) -> EvalResult:
    conditions = f"{score.weights} weights, ingredients {score.ingredients}, restrict {score.restrict}"
    return EvalResult(
        task_type="image-segmentation",
        dataset_type=score.data.partition("@")[0] or "prepared",
        dataset_name=score.data,
        dataset_split=score.split,
        metric_type="mean_iou",
        metric_name=f"mIoU ({conditions})",
        metric_value=round(score.miou, 4),
    )


def _scores(scores: Sequence[CardScore]) -> str:
    if not scores:
        return "None: the last update of training was not validated, and no evaluation was given."
    lines = [
        "| data | split | images | weights | ingredients | restrict | mIoU | mIoU foreground | mean accuracy | pixel "
        "accuracy | by |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for score in scores:
        values = (score.miou, score.miou_foreground, score.macc, score.aacc)
        shown = ["not recorded" if value is None else f"{100 * value:.1f}" for value in values]
        images = "all of the split" if score.images is None else str(score.images)
        conditions = (score.weights, score.ingredients, score.restrict)
        lines.append("| " + " | ".join([score.data, score.split, images, *conditions, *shown, score.by]) + " |")
    notes = [
        "Scores are in percent, from the pixels of all images together. mIoU is the mean over the classes with pixels "
        "in the split, background included.",
    ]
    if any(score.by == VALIDATION for score in scores):
        notes.append("The split of the validation in training also chooses among the checkpoints of a run.")
    if any(score.ingredients == "provided" for score in scores):
        notes.append("`provided`: the true ingredients of each image were given to the model, an oracle.")
    return "\n".join([*lines, "", *notes])


def _parts(checkpoint: Checkpoint) -> str:
    """Returns what the model consists of, the beginning of a sentence."""
    model, made_by = checkpoint.config.model, checkpoint.text.made_by if checkpoint.text is not None else None
    if model.kind == "open_vocabulary":
        return (
            f"Open vocabulary: frozen {model.backbone}, compared with what class embeddings of {made_by} should look "
            "like; it is not CLIP, and takes other names (`model.with_names`); no decoder"
        )
    if model.kind == "realtime":
        named = "a linear classifier" if made_by is None else f"cosines with class embeddings of {made_by}"
        prompts = ", behind learned context tokens" if model.realtime.context_tokens else ""
        return f"Real-time segmenter, size {model.realtime.size}: backbone {model.backbone}, {named}{prompts}"
    fusion = "no text fusion" if model.fusion == "none" else f"text fusion {model.fusion}"
    if made_by is not None:
        fusion += f" with class embeddings of {made_by}"
    return f"Backbone {model.encoders}, {fusion}, FPN decoder"


def _never(checkpoint: Checkpoint) -> str:
    absent = sorted(set(range(1, len(checkpoint.classes))) - set(checkpoint.trained_ids))
    if not absent:
        return ""
    names = ", ".join(checkpoint.classes.names[index] for index in absent[:10])
    more = f", and {len(absent) - 10} more" if len(absent) > 10 else ""
    return f"; the model has never seen {names}{more}"


def _licence(license: str | None) -> str:
    if license is not None:
        return f"`{license}`, as the metadata says."
    return (
        "Not stated: to be filled in by who publishes this model. Add a line such as `license: cc-by-4.0` to the\n"
        "metadata above, or save the model again with `license=`. It has to fit the licences of the training data and\n"
        "of pretrained weights."
    )
