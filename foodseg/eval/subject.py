"""What an evaluation scores: a checkpoint or a folder of label maps, in the label space of the scores.

subject = checkpoint_subject(uri, manifest, reader, (None, None), "val", [])
labeller = subject.build("auto")
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from foodseg import storage
from foodseg.checkpoint.checkpoint import Calibration, Checkpoint, calibration_of, load_checkpoint, load_model
from foodseg.config import ExperimentConfig
from foodseg.config.evaluation import EvalConfig
from foodseg.config.load import config_hash, with_eval_overrides
from foodseg.data.image_io import decode_image
from foodseg.data.label_space_map import LabelSpaceMap
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest
from foodseg.eval.mapped import CommonSpace, common_space
from foodseg.eval.predictions import PredictionFolder
from foodseg.eval.provided_lists import read_provided
from foodseg.eval.refined import MaskSource, redrawn
from foodseg.eval.report_html import read_losses
from foodseg.eval.result import LabelMaps, ScoredCheckpoint, Subjects
from foodseg.eval.result_files import TrainingCurves, shown_settings
from foodseg.eval.scoring import Labeller, Labels, true_conditioning
from foodseg.eval.scoring_job import Build
from foodseg.models.exported import Runtime, require_runtime
from foodseg.predict.device import Device, pick_device
from foodseg.predict.predictor import Predictor, logit_offsets
from foodseg.predict.recheck import BELOW, Recheck, build_recheck

OTHER_WEIGHTS = {"student": "ema", "ema": "student"}


@dataclass(frozen=True)
class RecheckSource:
    """A region classifier that looks again at doubtful regions; pickled without its weights.

    uri: of the run or checkpoint. below: mean confidence; None = the usual one.
    """

    uri: str
    below: float | None = None

    @property
    def note(self) -> str:
        """Says in the conditions of a score what was asked."""
        return f"{storage.redact(self.uri)} below {BELOW if self.below is None else self.below:g}"

    def build(self, device: torch.device, classes: Sequence[str]) -> Recheck:
        """Loads it in the process that calls it. UserError: as `build_recheck`."""
        found = build_recheck(self.uri, self.below, device, classes)
        assert found is not None
        return found


Spaces = tuple[LabelSpaceMap | None, str | None]
"""The map of `--map`, and the class table of `--classes`."""


@dataclass(frozen=True)
class Subject:
    """What is scored, and how: a checkpoint, CLIP with names, or a folder of label maps.

    build: makes the labeller. space: the label space of the scores. trained_ids: None = not known.
    computes: with a model, on a device.
    """

    about: Subjects
    space: CommonSpace
    build: Build
    trained_ids: Sequence[int] | None
    calibration_note: str
    curves: TrainingCurves
    computes: bool = False


class ProvidedLists(NamedTuple):
    """A file of lists of ingredients, and the images that are scored."""

    path: str
    image_ids: Sequence[str]


def checkpoint_subject(
    uri: str,
    manifest: Manifest,
    reader: RowReader,
    spaces: Spaces,
    split: str,
    overrides: Sequence[str],
    provided: ProvidedLists | None = None,
    masks: MaskSource | None = None,
    recheck: RecheckSource | None = None,
    runtime: Runtime | None = None,
) -> Subject:
    """Returns the checkpoint directory `uri` as what is scored.

    Args:
        overrides: `eval.key=value`. provided: what images are conditioned on; None = the truth, where
            `eval.ingredients` = provided. masks: along which label maps are redrawn; None = they are not.
        recheck: the region classifier that looks again at doubtful regions; None = none does.
        runtime: as for `load_model`.

    Raises:
        UserError: it is damaged, label spaces differ, the map does not fit, as `logit_offsets`, `read_provided` and
            `require_runtime`.
    """
    loaded = load_checkpoint(uri)
    space = common_space(loaded.classes, manifest, *spaces)
    config = with_eval_overrides(loaded.config, overrides)
    logit_offsets(config.eval, loaded.class_pixels)  # refused here rather than by each process that scores
    require_runtime(runtime, None if loaded.exported is None else loaded.exported.form)
    calibration = calibration_of(loaded, config.eval)
    conditioning = None
    if provided is not None:
        conditioning = read_provided(provided.path, loaded.classes, provided.image_ids)
    elif config.eval.ingredients == "provided":
        conditioning = true_conditioning(reader, space, len(loaded.classes))
    return Subject(
        about=ScoredCheckpoint(
            checkpoint=storage.redact(uri),
            step=loaded.step,
            config_hash=config_hash(config),
            eval=config.eval,
            text=loaded.text.made_by if loaded.text else None,
            temperature=calibration.temperature if calibration else 1.0,
            provided=None if provided is None else storage.redact(provided.path),
            refine=None if masks is None else masks.note,
            recheck=None if recheck is None else recheck.note,
        ),
        space=space,
        build=CheckpointLabeller(uri, config, conditioning, masks, recheck, runtime),
        trained_ids=space.trained_ids(loaded.trained_ids),
        calibration_note=_calibration_note(loaded, calibration, manifest, split),
        curves=TrainingCurves(loaded.history, read_losses(uri, loaded.step)),
        computes=True,
    )


def folder_subject(predictions: str, manifest: Manifest, spaces: Spaces) -> Subject:
    """Returns a folder of label maps as what is scored; its files are found later."""
    folder = PredictionFolder(storage.absolute(predictions), manifest.class_table)
    return Subject(
        about=LabelMaps(storage.redact(predictions)),
        space=common_space(None, manifest, *spaces),
        build=lambda device: folder,
        trained_ids=None,
        calibration_note="label maps carry no confidences, so there is nothing to score",
        curves=TrainingCurves(),
    )


def _calibration_note(loaded: Checkpoint, calibration: Calibration | None, manifest: Manifest, split: str) -> str:
    if loaded.calibration is None:
        return "not calibrated: the checkpoint holds no temperature, so it is taken as 1"
    if calibration is None:
        fitted = shown_settings(EvalConfig.model_validate(loaded.calibration.eval))
        return f"not calibrated for these settings: the temperature is taken as 1, the checkpoint's is for {fitted}"
    trained_on = loaded.data.split(" + ")  # as `Manifest.identity` joins several data sets
    where = calibration.split
    if split == calibration.split and manifest.identity in trained_on:
        others = ", and on those of the other data sets" if len(trained_on) > 1 else ""
        where = f"the images that are scored here{others}"
    return f"calibrated with temperature {calibration.temperature:.3f}, fitted on {where}"


class CheckpointLabeller:
    """Makes a labeller from a checkpoint in the process that calls it: pickled without its weights.

    `conditioning` holds by image_id the conditioning classes (ids), for `eval.ingredients` = provided.
    """

    def __init__(
        self,
        uri: str,
        config: ExperimentConfig,
        conditioning: Mapping[str, Sequence[int]] | None = None,
        masks: MaskSource | None = None,
        recheck: RecheckSource | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self._uri, self._config, self._conditioning, self._masks = uri, config, conditioning, masks
        self._recheck, self._runtime = recheck, runtime

    def __call__(self, wanted: Device | torch.device) -> Labeller:
        config = self._config
        device = wanted if isinstance(wanted, torch.device) else pick_device(wanted)
        loaded = load_checkpoint(self._uri)
        model = load_model(loaded, config.eval.weights, self._runtime)
        pixels = loaded.class_pixels
        predictor = Predictor(model, config.eval, device, config.train.precision, class_pixels=pixels)
        calibration = calibration_of(loaded, config.eval)
        temperature = calibration.temperature if calibration else 1.0
        other = None
        if loaded.teacher is not None:
            other_model = load_model(loaded, OTHER_WEIGHTS[config.eval.weights])
            other = Predictor(other_model, config.eval, device, config.train.precision, class_pixels=pixels)
        conditioning, masks = self._conditioning, self._masks
        masks_of = None if masks is None else masks.build(device)
        again = None if self._recheck is None else self._recheck.build(device, loaded.classes.names)

        def label(image_id: str, image: bytes, size: tuple[int, int]) -> Labels:
            provided = None if conditioning is None else conditioning[image_id]
            logits = predictor.logits_of_file(image, provided)
            found = redrawn(logits, image_id, image, masks, masks_of, temperature)
            if again is not None:
                found = again(decode_image(image), logits, *found, temperature)[:2]
            return Labels(*found, None if other is None else other.logits_of_file(image, provided).ids())

        return label
