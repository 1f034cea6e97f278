"""CLIP as the endpoint serves it: scores of names for an image and its regions, and label maps of any names.

clip = ServedClip(ServedClipConfig(model="ViT-B-16", weights="openai"))
labelled = clip.label(image, ["kimchi", "rice"], masks=(), refine="none")
"""

import logging
from collections.abc import Sequence

import numpy as np

from foodseg.config.serve import ServedClipConfig
from foodseg.config.zero_shot import ZeroShotConfig
from foodseg.errors import UserError
from foodseg.models.clip.clip import load_clip
from foodseg.models.clip.external import vit_features
from foodseg.models.clip.patch_tower import open_tower
from foodseg.predict.device import pick_device
from foodseg.predict.refine import Refine, refine_labels
from foodseg.predict.zero_shot import ZeroShotSegmenter
from foodseg.serve.protocols import Labelled
from foodseg.serve.served_model import labelled_of

_log = logging.getLogger(__name__)


class ServedClip:
    """One pair of towers; not safe to call from several threads at once."""

    def __init__(self, config: ServedClipConfig) -> None:
        """Loads the towers; a model whose image tower is not a ViT has no label maps, which the log says.

        Raises:
            UserError: as `load_clip` and `vit_features`.
        """
        device, dense = pick_device(), config.dense
        self._clip = load_clip(
            config.model, config.weights, device, quick_gelu=config.quick_gelu, cache_names=config.cache_names,
            prompts=dense.prompts,
        )  # fmt: skip
        self.scores, self.mask_scores = self._clip.scores, self._clip.mask_scores
        self._config = ZeroShotConfig(dense=dense, eval=config.eval)
        self._name = config.model
        self._external = None
        if dense.external is not None:
            self._external = vit_features(dense.external, dense.external_weights, device)
        try:
            open_tower(self._clip.visual)
            self._has_patches = True
        except UserError as error:
            _log.warning("no label maps of any names: %s", error)
            self._has_patches = False

    def label(
        self, image: np.ndarray, names: Sequence[str], masks: Sequence[np.ndarray], refine: Refine
    ) -> Labelled | None:
        """Returns the label map of an image (H, W, 3) uint8 RGB, as `ClipBackend.label`."""
        if not self._has_patches:
            return None
        model = ZeroShotSegmenter(self._clip, self._external, self._config, names)
        (logits,) = model.predictor.logits([image], [(image.shape[0], image.shape[1])])
        return labelled_of(*refine_labels(logits, masks, refine, 1.0), len(model.classes), self._name, "")
