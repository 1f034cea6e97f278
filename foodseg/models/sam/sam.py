"""Segment Anything (Kirillov et al., 2023): an embedding per image, masks for clicks and boxes, masks of everything.

    sam = load_sam("vit_t", "s3://models/mobile_sam.safetensors", pick_device())
    embedding = sam.embed(image)                    # slow: the image encoder
    masks = sam.prompt(embedding, [(320, 200, 1)])  # fast: the mask decoder
    masks = sam.automatic(embedding)

The models are those of the package segment-anything (ViT-B, L, H) and MobileSAM; weights are the published files.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from foodseg import storage
from foodseg.errors import UserError
from foodseg.models.sam.embedding import SamEmbedding, SamMask
from foodseg.models.sam.mask_grid import MaskGrid, masks_of_everything
from foodseg.models.sam.mobile_sam import build_mobile_sam, timm_state

SamKind = Literal["vit_t", "vit_b", "vit_l", "vit_h"]
# of the encoder's patch embedding, by which files of weights are distinguished
_WIDTHS: dict[int, SamKind] = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_FEATURES = (1, 256, 64, 64)  # of every kind's embedding


class SamModel:
    """Segment Anything with one set of weights; keeps nothing between calls."""

    def __init__(self, sam: Sam, device: torch.device, grid: MaskGrid | None = None) -> None:
        self._sam = sam.eval().to(device)
        self._grid = grid or MaskGrid()

    @torch.inference_mode()
    def embed(self, image: np.ndarray) -> SamEmbedding:
        """Encodes an image (H, W, 3) uint8 RGB, shown to the encoder with its longer side at 1024 pixels.

        Raises:
            UserError: it is so narrow that nothing would be left of its shorter side.
        """
        height, width = image.shape[:2]
        predictor = SamPredictor(self._sam)
        if min(predictor.transform.get_preprocess_shape(height, width, predictor.transform.target_length)) < 1:
            raise UserError(f"an image of {width} x {height} pixels is too narrow for Segment Anything: crop it")
        predictor.set_image(image)
        assert predictor.features is not None
        return SamEmbedding(predictor.features, height, width, predictor.input_size)

    @torch.inference_mode()
    def prompt(
        self,
        embedding: SamEmbedding,
        points: Sequence[tuple[float, float, int]] = (),
        box: tuple[float, float, float, float] | None = None,
    ) -> list[SamMask]:
        """Returns masks of the image's size, the one rated best first.

        A single point is ambiguous (the bean, the salad, the plate) and gets three masks; any other prompt gets one.

        Args:
            points: x, y in pixels of the image, and 1 = belongs to it or 0 = does not.
            box: x0, y0, x1, y1 in pixels of the image.

        Raises:
            UserError: neither point nor box, one outside the image, an empty box, a label that is not 0 or 1.
        """
        _check_prompt(embedding, points, box)
        masks, scores, _ = self._predictor(embedding).predict(
            point_coords=np.array([point[:2] for point in points], float) if points else None,
            point_labels=np.array([point[2] for point in points]) if points else None,
            box=None if box is None else np.array(box, float),
            multimask_output=len(points) == 1 and box is None,
        )
        best_first = np.argsort(-np.asarray(scores), kind="stable")
        return [SamMask(masks[index], float(scores[index])) for index in best_first]

    def check(self, encoder: bool = False) -> None:
        """Clicks on an empty embedding, which takes milliseconds; with `encoder` on a grey image, which takes longer.

        Raises:
            RuntimeError, or whatever a broken model ends with.
        """
        if encoder:
            embedding = self.embed(np.full((64, 64, 3), 128, np.uint8))
        else:
            side = self._sam.image_encoder.img_size
            embedding = SamEmbedding(torch.zeros(_FEATURES, device=self._sam.device), 64, 64, (side, side))
        if not all(math.isfinite(mask.score) for mask in self.prompt(embedding, [(32.0, 32.0, 1)])):
            raise RuntimeError("the scores of the masks are not finite")

    @torch.inference_mode()
    def automatic(self, embedding: SamEmbedding, stop: Callable[[], bool] | None = None) -> list[SamMask]:
        """Returns a mask for everything on an image, the one rated best first; `stop` as for `masks_of_everything`."""
        return masks_of_everything(self._sam, embedding, self._grid, stop)

    def _predictor(self, embedding: SamEmbedding) -> SamPredictor:
        """Returns the package's predictor as it is after `set_image`, which would run the encoder."""
        predictor = SamPredictor(self._sam)
        predictor.features = embedding.features
        predictor.original_size = (embedding.height, embedding.width)
        predictor.input_size = embedding.fitted
        predictor.is_image_set = True
        return predictor


def load_sam(kind: SamKind | None, weights: str, device: torch.device, grid: MaskGrid | None = None) -> SamModel:
    """Builds the model with published weights.

    Args:
        kind: vit_t is MobileSAM; None = what the weights are of.
        weights: path or URI of the official file (.pth, .pt), or of the same tensors as .safetensors.

    Raises:
        UserError: the file is missing, is damaged, or holds the weights of something else.
    """
    state = _read_state(weights)
    shown = storage.redact(weights)
    found = _kind_of(state)
    if found is None:
        raise _not_sam(weights)
    if kind is not None and found != kind:
        raise UserError(f"{shown} holds weights of {found}, not of {kind}: name the other kind or the other file")
    sam = build_mobile_sam() if found == "vit_t" else sam_model_registry[found]()
    try:
        sam.load_state_dict(timm_state(state) if found == "vit_t" else state)
    except RuntimeError as error:
        detail = " ".join(str(error).split("\n")[1:2]).strip()[:160]
        raise UserError(f"{shown} does not hold all weights of {found} ({detail})") from None
    return SamModel(sam, device, grid)


def weights_identity(weights: str) -> str:
    """Returns which weights a file holds: the architecture, and the sha256 of the file.

    Raises:
        UserError: it is missing, damaged, or holds no weights of Segment Anything.
    """
    found = _kind_of(_read_state(weights))
    if found is None:
        raise _not_sam(weights)
    return f"{found} {hashlib.sha256(storage.read_bytes(weights)).hexdigest()}"


def _not_sam(weights: str) -> UserError:
    shown = storage.redact(weights)
    return UserError(f"{shown} does not hold weights of Segment Anything under the names of its official files")


def _read_state(weights: str) -> Mapping[str, torch.Tensor]:
    if storage.is_local(weights):
        return _read_local(Path(storage.absolute(weights)), weights)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "weights"
        storage.download(weights, local)
        return _read_local(local, weights)


def _read_local(path: Path, weights: str) -> Mapping[str, torch.Tensor]:
    with storage.open_input(str(path)) as stream:
        start = stream.read(9)
    try:
        if start[8:] == b"{":  # safetensors: eight bytes of length, then JSON
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and the unpickler raise a dozen kinds for one cause
        detail = str(error).split("\n")[0][:160]
        raise UserError(f"{storage.redact(weights)} cannot be read as weights ({detail})") from None
    return state if isinstance(state, dict) else {}


def _kind_of(state: Mapping[str, Any]) -> SamKind | None:
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return "vit_t"
    patches = state.get("image_encoder.patch_embed.proj.weight")
    return _WIDTHS.get(len(patches)) if isinstance(patches, torch.Tensor) else None


def _check_prompt(
    embedding: SamEmbedding,
    points: Sequence[tuple[float, float, int]],
    box: tuple[float, float, float, float] | None,
) -> None:
    width, height = embedding.width, embedding.height
    if not points and box is None:
        raise UserError("a prompt needs at least one point or a box")
    for x, y, label in points:
        if label not in (0, 1):
            raise UserError(f"the label of a point is 1 (belongs to it) or 0 (does not), found {label}")
        if not (0 <= x <= width and 0 <= y <= height):
            raise UserError(f"the point ({x:g}, {y:g}) lies outside the image of {width} x {height} pixels")
    if box is not None:
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(
                f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is not x0 < x1, y0 < y1 within {width} x {height} pixels"
            )
