"""`data`: which prepared data set, which of its splits, and how often a row is drawn."""

from pydantic import Field, field_validator

from foodseg.config.section import Section


class DataConfig(Section):
    """Where the pictures come from."""

    uri: str = Field(
        "", description="prepared data set (a folder or s3://bucket/prefix), made by `foodseg data prepare`"
    )
    train_splits: tuple[str, ...] = Field(
        ("train",), description="splits that are trained on; never `test`", min_length=1
    )
    val_split: str | None = Field("val", description="split that chooses the best checkpoint; null = no validation")
    repeat_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="repeat-factor sampling (LVIS): a picture with a class in a share f < threshold of the pictures "
        "is drawn sqrt(threshold / f) times an epoch; 0 = every picture once",
    )
    repeat_cap: float = Field(
        4.0, ge=1, description="most times that repeat-factor sampling draws a picture in one epoch"
    )

    @field_validator("train_splits", "val_split")
    @classmethod
    def _test_is_for_evaluate(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        splits = value if isinstance(value, tuple) else (value,)
        if "test" in splits:
            raise ValueError("found 'test', which only `foodseg evaluate` opens; train on 'train', choose on 'val'")
        return value
