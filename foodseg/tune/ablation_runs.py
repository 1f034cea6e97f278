"""What an ablation trains and scores: every variant with every seed, and with folds without each fold.

    scores = planned_scores(plan, begun=[])
    trainings(scores)       # [{"variant": "image only", "seed": 0, "fold": 0}, ...]

Variants that differ only in the section `eval` learn the same: they share one training, which is scored under the
settings of each.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from foodseg.config import ExperimentConfig
from foodseg.config.load import leaves
from foodseg.tune.space import Values, configured
from foodseg.tune.sweep_files import AblationPlan, slug


@dataclass(frozen=True)
class Score:
    """One score of an ablation.

    fold: None where a split is scored.
    trained: the variant whose training is scored, this one or one that learns the same; None for label maps.
    overrides: `eval.key=value`, in which the variant differs from `trained`.
    predictions: folder of label maps; None for a training.
    """

    variant: str
    seed: int
    fold: int | None
    trained: str | None = None
    overrides: tuple[str, ...] = ()
    predictions: str | None = None

    @property
    def name(self) -> str:
        """Of its folder, and in what is said of it."""
        return run_name(self.variant, self.seed, self.fold)

    @property
    def run(self) -> str | None:
        """Name of the training that is scored."""
        return None if self.trained is None else run_name(self.trained, self.seed, self.fold)


def planned_scores(plan: AblationPlan, begun: Collection[str]) -> list[Score]:
    """Returns all scores of an ablation, those of the first seed first.

    Args:
        begun: names of trainings that have begun earlier: they are kept, also where another would be shared now.
    """
    configs = {
        name: configured(plan.base, variant.settings)
        for name, variant in plan.variants.items()
        if variant.predictions is None
    }
    learned = {name: json.dumps(config.model_dump(mode="json", exclude={"eval"})) for name, config in configs.items()}
    scores = []
    for seed in plan.ablation.repetitions:
        for variant, spec in plan.variants.items():
            for fold in [None] if plan.ablation.folds is None else range(plan.ablation.folds):
                if spec.predictions is not None:
                    folder = spec.predictions.replace("{seed}", str(seed)).replace("{fold}", str(fold))
                    scores.append(Score(variant, seed, fold, predictions=folder))
                    continue
                same = [variant, *(other for other in learned if learned[other] == learned[variant])]
                started = [name for name in same if run_name(name, seed, fold) in begun]
                trained = (started or same[1:])[0]
                overrides = _differences(configs[variant], configs[trained])
                scores.append(Score(variant, seed, fold, trained, overrides))
    return scores


def trainings(scores: Sequence[Score]) -> list[Values]:
    """Returns the values of each training that is scored, once."""
    found: dict[str, Values] = {}
    for score in scores:
        if score.trained is not None and score.run is not None:
            own = {} if score.fold is None else {"fold": score.fold}
            found[score.run] = {"variant": score.trained, "seed": score.seed, **own}
    return list(found.values())


def run_settings(plan: AblationPlan, values: Values) -> dict[str, Any]:
    """Returns what a training sets in the shared configuration; without a variant: what all of this fold set."""
    variant = plan.variants.get(str(values.get("variant")))
    settings: dict[str, Any] = dict(variant.settings) if variant else {}
    seed, folds = int(values["seed"]), plan.ablation.folds
    if folds is None:
        return {**settings, "train.seed": seed}
    fold = int(values["fold"])
    # another seed in each fold: what one seed does by chance must not count in all of them
    return {**settings, "train.seed": seed * folds + fold, "data.folds": folds, "data.held_out": fold}


def name_of(values: Values) -> str:
    """Returns the name of a training by its values."""
    return run_name(str(values["variant"]), int(values["seed"]), int(values["fold"]) if "fold" in values else None)


def run_name(variant: str, seed: int, fold: int | None) -> str:
    """Returns the name of a run and its folder, of a score and its folder, and with folds of a seed (no fold)."""
    return f"{slug(variant)}-seed{seed}" + ("" if fold is None else f"-fold{fold}")


def _differences(config: ExperimentConfig, trained: ExperimentConfig) -> tuple[str, ...]:
    own, other = (dict(leaves(each.eval.model_dump(mode="json"), "eval.")) for each in (config, trained))
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in own.items()
        if value != other[key]
    )
