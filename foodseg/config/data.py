"""`data`: which prepared data sets, which of their splits, and how often a row is drawn."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from foodseg import storage
from foodseg.config.marks import MayChangeOnResume, NotSearched, SetByAblation, Uri
from foodseg.config.section import Section

WINDOW = 2048  # images


class WeightedData(Section):
    """One of several prepared data sets that are trained on together."""

    uri: Annotated[str, Uri()] = Field(min_length=1, description="prepared data set")
    weight: float = Field(
        1.0, gt=0, le=1000, description="how often each of its images is drawn in an epoch, on average"
    )


class DataConfig(Section):
    """Where the images come from."""

    uri: Annotated[str, Uri(), NotSearched()] = Field(
        "", description="prepared data set (a folder or s3://bucket/prefix), made by `foodseg data prepare`"
    )
    uris: Annotated[tuple[WeightedData, ...], NotSearched()] = Field(
        (), description="instead of uri: several prepared data sets of one label space, as {uri, weight}"
    )
    train_splits: tuple[str, ...] = Field(
        ("train",), description="splits that are trained on; never `test`", min_length=1
    )
    val_split: Annotated[str | None, NotSearched()] = Field(
        "val", description="split that chooses the best checkpoint; null = no validation"
    )
    val_limit: Annotated[int | None, NotSearched()] = Field(
        None,
        ge=1,
        description="at most this many images of val_split are validated on in training, drawn by row groups, the same "
        "each time; null = all",
    )
    folds: Annotated[int | None, SetByAblation(), NotSearched()] = Field(
        None,
        ge=2,
        description="folds that all images of train_splits are dealt to, by near-duplicate group and source; needs "
        "held_out; null = every image is trained on",
    )
    held_out: Annotated[int | tuple[int, ...] | None, SetByAblation(), NotSearched()] = Field(
        None,
        description="the fold, counted from 0, that is not trained on, or a list of folds; needs folds",
    )
    repeat_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="repeat-factor sampling (LVIS): an image with a class in a share f < threshold of the labelled "
        "images is drawn sqrt(threshold / f) times an epoch; 0 = every image once",
    )
    repeat_cap: float = Field(
        4.0, ge=1, description="most times that repeat-factor sampling draws an image in one epoch"
    )

    window: int = Field(
        WINDOW,
        ge=1,
        description="images among which the order is shuffled, at least; a task reads as many at once, at most 256 MiB "
        "of them",
    )
    decode: Annotated[Literal["rank", "cluster"], NotSearched(), MayChangeOnResume()] = Field(
        "rank",
        description="with Ray workers, where images are decoded: in processes of each worker, or in tasks anywhere on "
        "the cluster, for workers whose nodes have few CPUs",
    )
    decode_processes: Annotated[int | None, NotSearched(), MayChangeOnResume()] = Field(
        None,
        ge=0,
        le=64,
        description="decode = rank: processes of each worker that decode, a CPU each; 0 = a thread of the worker; null "
        "= 1, and 0 without Ray or where the cluster has no CPU for it",
    )
    cache: Annotated[str | None, Uri(), MayChangeOnResume(), NotSearched()] = Field(
        None,
        description="folder of each machine that keeps a copy of the shards it reads, for any number of runs: object "
        "storage then sends each once; null = they are read where they are each time",
    )
    unlabelled_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the images drawn that have no mask; 0 = none; null = each as often as those with one",
    )

    @model_validator(mode="after")
    def _decoders_have_a_rank(self) -> "DataConfig":
        if self.decode == "cluster" and self.decode_processes is not None:
            raise ValueError("data.decode_processes is used by data.decode = rank alone, found cluster: leave it null")
        return self

    @field_validator("cache")
    @classmethod
    def _cache_is_here(cls, value: str | None) -> str | None:
        if value is not None and not storage.is_local(value):
            raise ValueError(f"must be a folder of each machine, found {value}: copies there would be no nearer")
        return value

    @field_validator("train_splits", "val_split")
    @classmethod
    def _test_is_for_evaluate(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        splits = value if isinstance(value, tuple) else (value,)
        if "test" in splits:
            raise ValueError("found 'test', which only `foodseg evaluate` opens; train on 'train', choose on 'val'")
        return value

    @field_validator("train_splits")
    @classmethod
    def _each_split_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        repeated = next((split for split in value if value.count(split) > 1), None)
        if repeated is not None:
            raise ValueError(f"found {repeated!r} twice; name each split once")
        return value

    @field_validator("uris")
    @classmethod
    def _each_once(cls, value: tuple[WeightedData, ...]) -> tuple[WeightedData, ...]:
        uris = [entry.uri for entry in value]
        repeated = next((uri for uri in uris if uris.count(uri) > 1), None)
        if repeated is not None:
            raise ValueError(f"found {storage.redact(repeated)} twice; list it once, with a larger weight")
        return value

    @model_validator(mode="after")
    def _one_or_several(self) -> "DataConfig":
        if self.uri and self.uris:
            raise ValueError("give exactly one of data.uri and data.uris, found both")
        return self

    @model_validator(mode="after")
    def _val_is_not_learned(self) -> "DataConfig":
        if self.val_split in self.train_splits:
            raise ValueError(
                f"data.train_splits {list(self.train_splits)} hold data.val_split {self.val_split!r}, which is to "
                "choose among models that have not seen it: set data.val_split=null, or leave it out of the former"
            )
        return self

    @model_validator(mode="after")
    def _limit_of_a_split(self) -> "DataConfig":
        if self.val_limit is not None and self.val_split is None:
            raise ValueError("data.val_limit has no effect without data.val_split: name a split, or leave it out")
        return self

    @model_validator(mode="after")
    def _one_of_the_folds(self) -> "DataConfig":
        if (self.folds is None) != (self.held_out is None):
            given, missing = ("held_out", "folds") if self.folds is None else ("folds", "held_out")
            raise ValueError(f"data.{given} has no effect without data.{missing}: give both, or neither")
        if self.folds is not None:
            fit = set(self.held_out_folds) <= set(range(self.folds)) and len(self.held_out_folds) < self.folds
            if not fit or not self.held_out_folds or len(set(self.held_out_folds)) < len(self.held_out_folds):
                raise ValueError(
                    f"data.held_out must be one of the folds 0 to {self.folds - 1} of data.folds, or a list of some of "
                    f"them, each once, found {self.held_out}"
                )
        return self

    @property
    def held_out_folds(self) -> tuple[int, ...]:
        """The folds that are not trained on; none without folds."""
        if self.held_out is None:
            return ()
        return (self.held_out,) if isinstance(self.held_out, int) else self.held_out

    @property
    def held_out_name(self) -> str:
        """ "fold 0 of 5", "folds 0 and 2 of 5"."""
        listed = " and ".join(map(str, self.held_out_folds))
        return f"fold{'s' * (len(self.held_out_folds) > 1)} {listed} of {self.folds}"
