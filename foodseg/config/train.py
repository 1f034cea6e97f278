"""`train`: length, batch, precision, averaging, checkpoints."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foodseg.config.marks import MayChangeOnResume, NotSearched, SetByAblation, Uri
from foodseg.config.section import Section


class TrainConfig(Section):
    """The loop. At most one of `steps` and `epochs` is given."""

    steps: int | None = Field(
        None, ge=1, description="optimizer updates; null = by `epochs`; 1000 where neither is set"
    )
    epochs: float | None = Field(None, gt=0, description="passes over the rows of train_splits; null = by `steps`")
    global_batch: int = Field(8, ge=1, description="images in one update over all workers, whatever their number")
    micro_batch: Annotated[int, MayChangeOnResume()] = Field(
        16, ge=1, description="most images in one forward pass of one worker; the rest is accumulated"
    )
    seed: Annotated[int, SetByAblation()] = Field(
        0, ge=0, description="seed of the weights, the order, the crops and dropout"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="autocast type; fp16 only on GPU, with loss scaling"
    )
    channels_last: bool = Field(
        True, description="memory format of the convolutions (faster on CPU and on tensor cores)"
    )
    compile: bool = Field(False, description="torch.compile the model")
    batch_norm: Literal["live", "frozen", "sync"] = Field(
        "live", description="BatchNorm: per worker, frozen running statistics, or synchronised over workers (GPU only)"
    )
    ema_horizon: float = Field(
        0.1,
        ge=0,
        le=1,
        description="time constant of the weights' running average (EMA) as a share of all steps: decay "
        "1 - 1/(horizon x steps); 0 = no averaged weights",
    )
    validate_every: int = Field(500, ge=1, description="steps between validations on val_split")
    checkpoint_every: Annotated[int, MayChangeOnResume()] = Field(
        500, ge=1, description="steps between checkpoints; a killed run loses no more than these"
    )
    keep_checkpoints: Annotated[int, MayChangeOnResume()] = Field(
        2, ge=2, description="newest checkpoints that are kept in addition to the best one"
    )
    log_every: Annotated[int, MayChangeOnResume()] = Field(10, ge=1, description="steps between progress lines")
    max_failures: Annotated[int, MayChangeOnResume()] = Field(
        3, ge=0, description="restarts from the last checkpoint after a worker or node died"
    )
    mlflow_uri: Annotated[str | None, MayChangeOnResume(), NotSearched()] = Field(
        None, description="MLflow tracking URI; null = TensorBoard files only"
    )
    latent_cache: Annotated[str | None, Uri(written=True), MayChangeOnResume()] = Field(
        None,
        description="folder or s3:// URI that caches what a frozen encoder makes of the crops, for any number of runs: "
        "the VAE's latents (model.kind diffusion), the tokens of a plain ViT (model.vit.trained frozen); null = they "
        "are computed each time. Needs crops that are the same each time: augment.scale of "
        "one value, longest_side x scale within crop, no class_aware, no paste, no changes of colour",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, tree: Any) -> Any:
        # `steps` has no default of its own: it would collide with an `epochs` that is given
        if isinstance(tree, dict) and not {"steps", "epochs"} & set(tree):
            return {**tree, "steps": 1000}
        return tree

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.steps is None) == (self.epochs is None):
            found = "both" if self.steps is not None else "neither"
            raise ValueError(f"give exactly one of train.steps and train.epochs, found {found}")
        return self
