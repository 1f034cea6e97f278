"""The whole configuration: one frozen tree from the command line to the loop.

A YAML file holds only what differs from the defaults; `--set section.key=value` overrides it. The tree travels as plain
JSON and is validated again wherever it arrives.
"""

from typing import Annotated, Any

from pydantic import Field, model_validator

from foodseg.config.augment import AugmentConfig
from foodseg.config.data import DataConfig
from foodseg.config.distill import DistillConfig
from foodseg.config.evaluation import EvalConfig
from foodseg.config.loss import LossConfig
from foodseg.config.marks import ExecutionOnly, NeedsSoftLabels, NeedsTeacher, keys_with
from foodseg.config.model import ModelConfig
from foodseg.config.optim import OptimConfig, StageTwoConfig
from foodseg.config.roi import RoiConfig
from foodseg.config.run import RunConfig
from foodseg.config.scaling import ScalingConfig
from foodseg.config.section import Section
from foodseg.config.train import TrainConfig


class ExperimentConfig(Section):
    """Every setting of a training run; the checkpoint carries it, evaluation and serving rebuild the model from it."""

    data: DataConfig = Field(DataConfig(), description="which images")
    augment: AugmentConfig = Field(AugmentConfig(), description="what happens to a training image")
    model: ModelConfig = Field(ModelConfig(), description="backbone and decoder")
    loss: LossConfig = Field(LossConfig(), description="what is minimised")
    distill: DistillConfig = Field(DistillConfig(), description="self-distillation, conditioning classes")
    roi: RoiConfig = Field(RoiConfig(), description="model.kind = roi: regions, their views, the classifier")
    optim: OptimConfig = Field(OptimConfig(), description="AdamW and its schedule")
    train: TrainConfig = Field(TrainConfig(), description="length, batch, checkpoints")
    eval: EvalConfig = Field(EvalConfig(), description="size, windows, weights and conditioning in evaluation")
    scaling: Annotated[ScalingConfig, ExecutionOnly()] = Field(ScalingConfig(), description="workers")
    run: Annotated[RunConfig, ExecutionOnly()] = Field(RunConfig(), description="where the run is stored")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, tree: Any) -> Any:
        """Without gradients there is nothing to average, and every image counts once."""
        model = tree.get("model") if isinstance(tree, dict) else None
        if not isinstance(model, dict) or model.get("kind") != "open_vocabulary":
            return tree
        train, evaluation = tree.get("train", {}), tree.get("eval", {})
        once = {} if "steps" in train else {"epochs": 1}
        return {
            **tree,
            "train": {"ema_horizon": 0, **once, **train},
            "eval": {"weights": "student", **evaluation},
        }

    @model_validator(mode="after")
    def _nothing_by_gradients(self) -> "ExperimentConfig":
        if self.model.kind == "open_vocabulary":
            if self.loss != LossConfig() or self.distill != DistillConfig():
                raise ValueError("loss and distill are not used by model.kind = open_vocabulary: leave them out")
            if self.train.ema_horizon > 0:
                raise ValueError(
                    "train.ema_horizon must be 0 with model.kind = open_vocabulary: it is solved, not averaged"
                )
        return self

    @property
    def regions(self) -> RoiConfig | None:
        """What is learned of regions; None for a segmenter."""
        return self.roi if self.model.kind == "roi" else None

    @model_validator(mode="after")
    def _regions(self) -> "ExperimentConfig":
        if self.model.kind != "roi":
            if self.roi != RoiConfig():
                raise ValueError(f"roi is used by model.kind = roi alone, found {self.model.kind}: leave it out")
            return self
        plain = ExperimentConfig.model_fields
        used = {
            "loss": ("label_smoothing",), "distill": ("teacher", "temperature"), "eval": ("flip", "weights"),
            "augment": ("crop", "flip", "contrast", "brightness", "saturation", "light", "blur"),
        }  # fmt: skip
        for name, keys in used.items():
            section, default = getattr(self, name), plain[name].default
            other = next((key for key in type(section).model_fields if key not in keys
                          and getattr(section, key) != getattr(default, key)), None)  # fmt: skip
            if other is not None:
                raise ValueError(f"{name}.{other} is not used by model.kind = roi: leave it out")
        if self.train.latent_cache is not None:
            raise ValueError("train.latent_cache is not used by model.kind = roi: leave it null")
        if (self.roi.distill != "none") != bool(self.distill.teacher):
            raise ValueError(
                "roi.distill other than none and distill.teacher, a checkpoint of model.kind = roi, need each other: "
                f"found {self.roi.distill} and {list(self.distill.teacher)}"
            )
        if len(self.distill.teacher) > 1:
            raise ValueError(
                f"distill.teacher is one checkpoint with model.kind = roi, found {len(self.distill.teacher)}"
            )
        if self.roi.regions == "sam" and self.data.uris:
            raise ValueError(
                "roi.regions = sam reads the masks beside data.uri, and data.uris names several: merge them"
            )
        return self

    @model_validator(mode="after")
    def _batch_splits_over_workers(self) -> "ExperimentConfig":
        batch, allowed = self.train.global_batch, self.scaling.world_sizes
        refused = [size for size in (allowed[0], allowed[-1]) if batch % size]
        if refused:
            fitting = [size for size in range(1, batch + 1) if batch % size == 0]
            raise ValueError(
                f"train.global_batch = {batch} cannot be split evenly over {refused[0]} workers "
                f"(scaling.num_workers); with it {fitting} workers are possible"
            )
        return self

    @property
    def decoders(self) -> int:
        """Processes of each training process that decode its images."""
        if self.data.decode == "cluster":
            return 0
        given = self.data.decode_processes
        return given if given is not None else int(self.scaling.num_workers != 0)

    @property
    def world_sizes(self) -> list[int]:
        """The numbers of workers that may be formed, ascending."""
        return self.scaling.even_world_sizes(self.train.global_batch)

    @model_validator(mode="after")
    def _terms_and_what_they_need(self) -> "ExperimentConfig":
        if self.loss.needs_teacher and self.train.ema_horizon == 0:
            *others, last = keys_with(LossConfig, NeedsTeacher)
            raise ValueError(
                f"loss.{', '.join(others)} and {last} need the averaged weights as their teacher: set "
                "train.ema_horizon above 0, or all of these weights to 0"
            )
        if self.model.kind != "roi" and self.loss.needs_soft_labels != bool(self.distill.teacher):
            *others, last = keys_with(LossConfig, NeedsSoftLabels)
            raise ValueError(
                f"distill.teacher and loss.{', '.join(others)} or {last} need each other: found "
                + ("a teacher, and all of these 0" if self.distill.teacher else "no teacher, and one of these above 0")
            )
        for head, keys in {
            "stage_heads": ("stage_labels", "stage_distill"), "privileged_head": ("privileged", "privileged_distill"),
        }.items():  # fmt: skip
            weights = [getattr(self.loss, key) for key in keys]
            if (max(weights) > 0) != getattr(self.model, head):
                raise ValueError(
                    f"model.{head} and loss.{keys[0]} or {keys[1]} above 0 need each other: found "
                    f"{str(getattr(self.model, head)).lower()}, {weights[0]:g} and {weights[1]:g}"
                )
        if self.distill.labels is not None and not self.distill.teacher:
            raise ValueError("distill.labels keeps the soft labels of distill.teacher, which is empty: set both")
        if (self.loss.ingredients > 0) != self.model.ingredient_head:
            raise ValueError(
                "loss.ingredients above 0 and model.ingredient_head: true need each other: "
                f"found {self.loss.ingredients:g} and {str(self.model.ingredient_head).lower()}"
            )
        if (self.loss.score_map > 0) != (self.model.fusion == "score_map"):
            raise ValueError(
                "loss.score_map above 0 and model.fusion = score_map need each other: "
                f"found {self.loss.score_map:g} and {self.model.fusion}"
            )
        return self

    @model_validator(mode="after")
    def _realtime(self) -> "ExperimentConfig":
        loss, named = self.loss, self.model.kind == "realtime" and self.model.text.kind != "none"
        if named and not (loss.pixel_text > 0 and loss.cross_entropy > 0):
            raise ValueError(
                "model.kind = realtime with model.text has two classifiers, one of which only training has: both "
                f"loss.pixel_text and loss.cross_entropy must be above 0, found {loss.pixel_text:g} and "
                f"{loss.cross_entropy:g}"
            )
        if not named and (loss.pixel_text > 0 or loss.image_text > 0):
            raise ValueError(
                "loss.pixel_text and loss.image_text compare pixel embeddings with class embeddings: they need "
                "model.kind = realtime and model.text.kind table or open_clip"
            )
        if self.model.kind == "realtime" and (loss.stages > 0 or loss.deeper > 0):
            raise ValueError(
                "loss.stages and loss.deeper compare the stages of an FPN decoder, and model.kind = realtime has none: "
                "set both to 0"
            )
        prompts = self.model.realtime.context_tokens > 0
        if not prompts and self.optim.stage_two != StageTwoConfig():
            raise ValueError(
                "optim.stage_two is for the context tokens of model.realtime.context_tokens, which is 0: set it to 4 "
                "or 16, or leave optim.stage_two out"
            )
        if prompts and self.train.compile:
            raise ValueError("train.compile does not work with model.realtime.context_tokens: leave it false")
        return self

    @model_validator(mode="after")
    def _stages_and_attention(self) -> "ExperimentConfig":
        strides, stages = self.model.strides, self.distill.stages
        if stages is not None:
            if self.loss.stages == 0 and self.loss.deeper == 0:
                raise ValueError("distill.stages is used by loss.stages and loss.deeper alone, which are 0")
            if not set(stages) <= set(strides) or len(set(stages)) < len(stages):
                raise ValueError(
                    f"distill.stages must be some of model.strides {list(strides)}, each once, found {list(stages)}"
                )
        if self.loss.deeper > 0 and set(stages or strides) <= {strides[-1]}:
            raise ValueError(
                "loss.deeper needs a stage above which there is a deeper one: among distill.stages, one of "
                f"model.strides {list(strides)} but the last"
            )
        if self.loss.attention > 0 and not self.model.has_maps:
            raise ValueError(
                "loss.attention above 0 needs model.kind = diffusion, model.fusion = cross_attention, "
                "model.diffusion.maps: true and 16 or 32 among model.strides"
            )
        return self

    @model_validator(mode="after")
    def _ingredient_head_is_trained(self) -> "ExperimentConfig":
        if self.model.kind == "diffusion" and self.model.ingredient_head and self.distill.conditioning_mix[0] == 0:
            raise ValueError(
                "distill.conditioning_mix must condition some students on all classes (first share above 0): the "
                "ingredient head of model.kind = diffusion learns from these alone, since its features depend on the "
                "conditioning classes"
            )
        return self

    @model_validator(mode="after")
    def _sides_that_the_unet_takes(self) -> "ExperimentConfig":
        if self.model.kind == "diffusion":
            if self.train.compile:
                raise ValueError("train.compile does not work with model.kind = diffusion: leave it false")
            for key, side in (("augment.crop", self.augment.crop), ("eval.window", self.eval.window or 64)):
                if side % 64:
                    raise ValueError(f"{key} must be a multiple of 64 with model.kind = diffusion, found {side}")
        return self

    @model_validator(mode="after")
    def _crops_repeat(self) -> "ExperimentConfig":
        if self.train.latent_cache is None:
            return self
        if self.model.vit.trained != "frozen":
            raise ValueError(
                "train.latent_cache keeps the tokens of a frozen ViT, and model.vit.trained is "
                f"{self.model.vit.trained}: leave it null"
            )
        augment = self.augment
        fixed: dict[str, tuple[object, object]] = {
            "scale": (augment.scale, (augment.scale[0], augment.scale[0])),
            "class_aware": (augment.class_aware, 0),
            "paste": (augment.paste, 0),
            "contrast": (augment.contrast, (1, 1)),
            "brightness": (augment.brightness, 0),
            "saturation": (augment.saturation, (1, 1)),
            "light": (augment.light, 0),
            "blur": (augment.blur, 0),
        }
        random = [f"augment.{key} ({found})" for key, (found, wanted) in fixed.items() if found != wanted]
        if augment.longest_side * augment.scale[1] > augment.crop:
            random.append(f"the position of the crop (augment.crop = {augment.crop} is smaller than an image)")
        if random:
            raise ValueError(
                "train.latent_cache needs crops that are the same each time, but these are random: "
                f"{', '.join(random)}; switch them off, or leave train.latent_cache null"
            )
        return self

    @model_validator(mode="after")
    def _conditioning_has_a_source_and_an_effect(self) -> "ExperimentConfig":
        ingredients = self.eval.ingredients
        if ingredients == "predicted" and not self.model.ingredient_head:
            raise ValueError("eval.ingredients = predicted needs a model trained with model.ingredient_head: true")
        if ingredients != "vocabulary" and self.model.fusion == "none" and self.eval.restrict == "none":
            raise ValueError(
                f"eval.ingredients = {ingredients} changes nothing: the model has no text fusion (model.fusion is "
                "none); set eval.restrict to soft or hard, or eval.ingredients to vocabulary"
            )
        return self

    @model_validator(mode="after")
    def _gpu_only_settings(self) -> "ExperimentConfig":
        if not self.scaling.use_gpu:
            if self.train.batch_norm == "sync":
                raise ValueError(
                    "train.batch_norm = sync works on GPUs only; use 'live' or 'frozen', or scaling.use_gpu: true"
                )
            if self.train.precision == "fp16":
                raise ValueError(
                    "train.precision = fp16 works on GPUs only; use 'fp32' or 'bf16', or scaling.use_gpu: true"
                )
        if self.eval.weights == "ema" and self.train.ema_horizon == 0:
            raise ValueError("eval.weights = ema needs train.ema_horizon above 0; or set eval.weights: student")
        return self
