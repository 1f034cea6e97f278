"""Any names, without training: CLIP compares each patch of an image with them.

    model = zero_shot(["kimchi", "white rice|steamed rice"])
    model.predict("lunch.jpg").overlay().save("lunch.overlay.jpg")

`foodseg zero-shot` is this class with files around it. The names are the label space: id 0 is background, id i the i-th
name.
"""

import os
from collections.abc import Sequence
from typing import Any, overload

import torch

from foodseg import storage
from foodseg.config.zero_shot import ZeroShotConfig, parse_zero_shot_config
from foodseg.errors import Unavailable, UserError
from foodseg.models.clip.clip import ClipModel, load_clip
from foodseg.models.clip.dense import ExternalEncoder
from foodseg.models.clip.dense_segmenter import DenseSegmenter
from foodseg.models.clip.external import sam_features, vit_features
from foodseg.models.clip.names import parse_names
from foodseg.models.sam.sam import load_sam
from foodseg.predict.device import Device, parse_device, pick_device
from foodseg.predict.image_input import ImageInput
from foodseg.predict.labelling import Labelling
from foodseg.predict.prediction import Prediction
from foodseg.predict.predictor import Predictor
from foodseg.predict.refine import Refine, Refiner, build_refiner, parse_refine


def zero_shot(
    names: str | Sequence[str],
    *,
    config: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    device: Device | torch.device = "auto",
    refine: Refine = "none",
    sam: str | os.PathLike[str] | None = None,
) -> "ZeroShotSegmenter":
    """Loads CLIP and names to look for.

    Args:
        names: a list, or one text with commas between. Several words for one name stand between bars, of which the one
            that fits best counts and the first is the label: "kimchi, white rice|steamed rice".
        config: YAML file or URI of settings (`ZeroShotConfig`); None = the defaults, OpenAI's ViT-B-16, whose weights
            open_clip fetches once.
        overrides: `section.key=value`, as `--set` of the command: `clip.model=ViT-L-14`, `dense.attention=naclip`.
        device: "auto" (a GPU if there is one), "cpu", "gpu", or a `torch.device`.
        refine: as for `load`. sam: file or URI of the weights of segment-anything or MobileSAM, for `refine`, and for
            `dense.external=sam`.

    Raises:
        UserError: there is no name, or one occurs twice; an unknown setting; open_clip is missing or lacks the model;
            its image tower is not a ViT; a device that is not there.

    >>> import foodseg
    >>> model = foodseg.zero_shot("kimchi, white rice|steamed rice", overrides=["clip.model=models/clip"])
    >>> model.classes
    ('background', 'kimchi', 'white rice')
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides is a list of settings: give [{overrides!r}]")
    where = pick_device(parse_device(device, where="device")) if isinstance(device, str) else device
    if where.type == "cuda" and not torch.cuda.is_available():
        raise Unavailable(f"device is {where}, and torch finds no CUDA GPU here: choose auto or cpu")
    parse_names(names)  # a mistake in them is said before the weights are loaded
    settings = parse_zero_shot_config(None if config is None else os.fspath(config), overrides)
    weights = None if sam is None else os.fspath(sam)
    return zero_shot_with(names, settings, where, parse_refine(refine, where="refine"), weights)


def zero_shot_with(
    names: str | Sequence[str],
    config: ZeroShotConfig,
    device: Device | torch.device,
    refine: Refine = "none",
    sam: str | None = None,
) -> "ZeroShotSegmenter":
    """As `zero_shot`, with settings that were read already."""
    where = device if isinstance(device, torch.device) else pick_device(device)
    similar_by_sam = config.dense.external == "sam"
    if similar_by_sam and sam is None:
        raise UserError("dense.external=sam needs the weights of Segment Anything: --sam mobile_sam.safetensors")
    refiner = build_refiner(refine, None if similar_by_sam and refine == "none" else sam, where)
    clip = load_clip(
        config.clip.model, config.clip.weights, where, quick_gelu=config.clip.quick_gelu,
        cache_names=config.clip.cache_names, prompts=config.dense.prompts,
    )  # fmt: skip
    external = None
    if similar_by_sam and sam is not None:
        external = sam_features(refiner.sam if refiner else load_sam(None, sam, where))
    elif config.dense.external is not None:
        external = vit_features(config.dense.external, config.dense.external_weights, where)
    return ZeroShotSegmenter(clip, external, config, names, refiner)


class ZeroShotSegmenter:
    """CLIP and names to look for; `foodseg.zero_shot` makes it. Use one per thread.

    Attributes:
        classes: names; the index is the id in label maps, 0 = background, which is what fits none of them.
        names: as they were given, one text each.
        config: all settings but the names.
        device: what it computes on.
        refiner: redraws label maps along masks; None = they stay as they are.
    """

    def __init__(
        self,
        clip: ClipModel,
        external: ExternalEncoder | None,
        config: ZeroShotConfig,
        names: str | Sequence[str],
        refiner: Refiner | None = None,
    ) -> None:
        """Takes models that are loaded; `names` and errors as for `zero_shot`."""
        self.config, self.device = config, clip.device
        self._clip, self._external, self.refiner = clip, external, refiner
        wanted = parse_names(names)
        self.classes: tuple[str, ...] = wanted.classes.names
        self.names = tuple("|".join(own) for own in wanted.words)
        network = DenseSegmenter(clip, wanted, config.dense, external)
        self._labelling = Labelling(
            Predictor(network, config.eval, clip.device),
            self.classes,
            ingredients_from="vocabulary",
            calibrated=False,
            temperature=1.0,
            refiner=refiner,
        )

    @property
    def predictor(self) -> Predictor:
        """What gives the class scores of an image."""
        return self._labelling.predictor

    @overload
    def predict(self, image: ImageInput, *, batch_size: int = 8) -> Prediction: ...
    @overload
    def predict(self, image: list[Any] | tuple[ImageInput, ...], *, batch_size: int = 8) -> list[Prediction]: ...
    def predict(
        self, image: ImageInput | list[Any] | tuple[ImageInput, ...], *, batch_size: int = 8
    ) -> Prediction | list[Prediction]:
        """Labels an image, or each of a list or tuple of images.

        Args:
            image: as for `Segmenter.predict`. batch_size: images of a list that are read at once.

        Returns:
            A `Prediction`, or a list of them in the order of the images. The confidence of a pixel is the softmax over
            the names and background; it is not calibrated.

        Raises:
            UserError: a file that is missing or cannot be read, an array of another shape, dtype or range.
            RetryLater: the storage does not answer.

        >>> import foodseg
        >>> model = foodseg.zero_shot(["kimchi", "rice"], overrides=["clip.model=models/clip"])
        >>> model.predict("lunch.jpg").ids.shape
        (96, 128)
        """
        if isinstance(image, list | tuple):
            return list(self._labelling.predict(image, batch_size))
        (found,) = self._labelling.predict([image], batch_size)
        return found

    def with_names(self, names: str | Sequence[str]) -> "ZeroShotSegmenter":
        """Returns one that looks for other names with the same models, which are not loaded again.

        Raises:
            UserError: as `zero_shot`, of the names.

        >>> import foodseg
        >>> model = foodseg.zero_shot(["kimchi", "rice"], overrides=["clip.model=models/clip"])
        >>> model.with_names("egg, nori").classes
        ('background', 'egg', 'nori')
        """
        return ZeroShotSegmenter(self._clip, self._external, self.config, names, self.refiner)

    def __repr__(self) -> str:
        model, weights = (storage.redact(str(part)) for part in (self.config.clip.model, self.config.clip.weights))
        names = ", ".join(self.classes[1:4]) + (", ..." if len(self.classes) > 4 else "")
        return f"ZeroShotSegmenter({names}: CLIP {model} {weights}, {self.config.dense.attention}, on {self.device})"
