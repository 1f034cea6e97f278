"""`sweep` and `ablation`: the settings of `foodseg tune` and of `foodseg ablate` that are not those of a training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from foodseg.config.marks import MayChangeOnResume, Uri
from foodseg.config.section import Section

Against = Literal["none", "parameters", "latency"]


class SweepConfig(Section):
    """What searches, what stops a trial early, and when the sweep ends."""

    uri: Annotated[str, Uri(written=True), MayChangeOnResume()] = Field(
        "runs/sweep", description="folder or s3://bucket/prefix of the sweep: trials, best.yaml, report"
    )
    searcher: Literal["random", "grid", "tpe"] = Field(
        "tpe", description="how values are chosen: at random, every combination, or by Optuna's TPE from what was found"
    )
    seed: int = Field(0, ge=0, description="seed of the search")
    scheduler: Literal["none", "asha", "hyperband"] = Field(
        "asha",
        description="what stops weak trials early: nothing, successive halving (ASHA), or the same with up to three "
        "brackets that begin later and later",
    )
    grace: float = Field(0.1, gt=0, lt=1, description="share of its steps that every trial may train")
    reduction: float = Field(3, gt=1, description="one trial in this many continues at each rung")
    against: Against = Field(
        "none",
        description="second objective next to mIoU on val: the model's parameters or its milliseconds an image; the "
        "report then shows the Pareto front",
    )
    trials: Annotated[int | None, MayChangeOnResume()] = Field(
        16, ge=1, description="most trials; null = no limit but the others, or the whole grid"
    )
    hours: Annotated[float | None, MayChangeOnResume()] = Field(
        None, gt=0, description="most hours of one call; null = no limit"
    )
    worker_hours: Annotated[float | None, MayChangeOnResume()] = Field(
        None, gt=0, description="most hours of training over all trials, times the workers of each; null = no limit"
    )
    concurrent: Annotated[int | None, MayChangeOnResume()] = Field(
        None, ge=1, description="most trials at once; null = as many as the machine's cores or the cluster hold"
    )

    @model_validator(mode="after")
    def _some_limit(self) -> "SweepConfig":
        if self.searcher != "grid" and self.trials is None and self.hours is None and self.worker_hours is None:
            raise ValueError(
                "the sweep would never end: set one of sweep.trials, sweep.hours and sweep.worker_hours, "
                "or sweep.searcher: grid"
            )
        return self


class SweepFile(Section):
    """The part `sweep` of the file of a sweep; its other parts are `space` and `config`."""

    sweep: SweepConfig = Field(SweepConfig(), description="search, early stopping, budget")


SPLIT = "val"


class AblationConfig(Section):
    """Which seeds every variant is trained with, and the data that it is scored on."""

    uri: Annotated[str, Uri(written=True), MayChangeOnResume()] = Field(
        "runs/ablation", description="folder or s3://bucket/prefix of the ablation: runs, scores, table"
    )
    folds: int | None = Field(
        None,
        ge=2,
        description="train every variant once without each of so many folds of the images of config.data.train_splits, "
        "and score it on all of them, each image by the run that has not seen it; null = score a split",
    )
    seeds: Annotated[tuple[int, ...] | None, MayChangeOnResume()] = Field(
        None,
        min_length=1,
        description="train.seed of each variant's runs, with folds seed x folds + fold; null = 0, 1 and 2, with folds "
        "0 alone",
    )
    data: Annotated[str | None, Uri()] = Field(
        None, description="prepared data set that is scored; null = config.data.uri; not with folds"
    )
    split: str = Field(
        SPLIT,
        description="split that is scored; test is opened once for each finished run, and noted; not used with folds",
    )
    weights: Literal["both", "student", "ema"] = Field(
        "both", description="which weights are scored: the student's, the averaged ones (ema), or both"
    )
    subsets: Annotated[tuple[str, ...], Uri(), MayChangeOnResume()] = Field(
        (), description="files of class ids, each scored under its own name"
    )
    resamples: Annotated[int, MayChangeOnResume()] = Field(
        10_000, ge=1, description="draws of groups and seeds for the intervals"
    )
    concurrent: Annotated[int | None, MayChangeOnResume()] = Field(
        None, ge=1, description="most runs at once; null = as many as the machine's cores or the cluster hold"
    )

    @property
    def repetitions(self) -> tuple[int, ...]:
        """The seeds; with folds each is a training for every fold."""
        return self.seeds or ((0, 1, 2) if self.folds is None else (0,))

    @model_validator(mode="after")
    def _different_seeds(self) -> "AblationConfig":
        if len(set(self.repetitions)) < len(self.repetitions):
            raise ValueError(f"ablation.seeds must differ from each other, found {list(self.repetitions)}")
        return self

    @model_validator(mode="after")
    def _folds_are_scored(self) -> "AblationConfig":
        if self.folds is not None and self.split != SPLIT:
            raise ValueError(
                f"ablation.folds = {self.folds} scores the folds of config.data.train_splits, so ablation.split = "
                f"{self.split!r} has no effect: leave one of them out"
            )
        if self.folds is not None and self.data is not None:
            raise ValueError(
                f"ablation.folds = {self.folds} scores the data that is trained on, so ablation.data has no effect: "
                "leave one of them out"
            )
        return self


class AblationFile(Section):
    """The part `ablation` of the file of an ablation; its other parts are `variants`, `contrasts` and `config`."""

    ablation: AblationConfig = Field(AblationConfig(), description="folds or a split, seeds, subsets")
