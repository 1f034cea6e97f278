"""CLIP with the class names of a data set as what an evaluation scores: nothing was trained on it.

subject = zero_shot_subject(parse_zero_shot_config(None, ["clip.model=ViT-L-14"]), manifest, (None, None))
"""

from collections.abc import Sequence

import torch

from foodseg import storage
from foodseg.config.load import section_hash
from foodseg.config.zero_shot import ZeroShotConfig
from foodseg.data.shards import Manifest
from foodseg.eval.mapped import common_space
from foodseg.eval.refined import MaskSource, redrawn
from foodseg.eval.result import ScoredZeroShot
from foodseg.eval.result_files import TrainingCurves
from foodseg.eval.scoring import Labeller, Labels
from foodseg.eval.subject import Spaces, Subject
from foodseg.models.clip.names import parse_names
from foodseg.models.text.synonyms import sentences_of
from foodseg.predict.device import Device, pick_device
from foodseg.predict.zero_shot import zero_shot_with


def zero_shot_subject(
    config: ZeroShotConfig,
    manifest: Manifest,
    spaces: Spaces,
    names: Sequence[str] | None = None,
    masks: MaskSource | None = None,
) -> Subject:
    """Returns CLIP with names as what is scored.

    Args:
        names: as for `foodseg.zero_shot`; None = the ingredients of the data set, an odd one in plain words
            (`models/text/synonyms.tsv`).
        masks: along which label maps are redrawn; None = they are not.

    Raises:
        UserError: label spaces differ, or the map does not fit.
    """
    classes = manifest.class_table
    if names is None:
        names = ["|".join(dict.fromkeys((name, *sentences_of(name)))) for name in classes.names[1:]]
    else:
        classes = parse_names(names).classes
    space = common_space(classes, manifest, *spaces)
    about = ScoredZeroShot(
        clip=storage.redact(f"{config.clip.model} {config.clip.weights or ''}".strip()),
        names=len(names),
        config_hash=section_hash(config),
        dense=config.dense,
        eval=config.eval,
        refine=None if masks is None else masks.note,
    )
    return Subject(
        about=about,
        space=space,
        build=ZeroShotLabeller(config, names, masks),
        trained_ids=None,
        calibration_note="not calibrated: no model was trained, so there is no temperature",
        curves=TrainingCurves(),
        computes=True,
    )


class ZeroShotLabeller:
    """Makes a labeller in the process that calls it: pickled without the weights of CLIP."""

    def __init__(self, config: ZeroShotConfig, names: Sequence[str], masks: MaskSource | None) -> None:
        self._config, self._names, self._masks = config, names, masks

    def __call__(self, wanted: Device | torch.device) -> Labeller:
        device = wanted if isinstance(wanted, torch.device) else pick_device(wanted)
        masks = self._masks
        # the weights of Segment Anything are loaded for an external encoder too
        sam = masks.sam if masks is not None and self._config.dense.external == "sam" else None
        predictor = zero_shot_with(self._names, self._config, device, sam=sam).predictor
        masks_of = None if masks is None else masks.build(device)

        def label(image_id: str, image: bytes, size: tuple[int, int]) -> Labels:
            return Labels(*redrawn(predictor.logits_of_file(image), image_id, image, masks, masks_of, 1.0))

        return label
