"""Images as a caller of the Python API has them: a path or URI, a PIL image, a NumPy array, a torch tensor.

    whole, scaled = read_image("lunch.jpg", predictor)
    whole, scaled = read_image(torchvision.io.read_image("lunch.jpg"), predictor)

A file is decoded as `foodseg predict` and the endpoint decode it, so that its label map is the same. An array is taken
as it is; nothing says which of BGR and RGB it holds, so RGB is what the docstrings ask for.

Shape letters: H, W of the image.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

from foodseg import storage
from foodseg.data.image_format import BadFile
from foodseg.data.image_io import MAX_PIXELS, decode_image, image_kind, rgb_of
from foodseg.errors import UserError
from foodseg.predict.predictor import Predictor

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor
"""Path or URI; PIL image; (H, W, 3) uint8 RGB; (3, H, W) RGB, uint8 or floating point in 0..1."""
_log = logging.getLogger(__name__)


def read_image(image: ImageInput, predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image (H, W, 3) uint8 RGB, upright, and the same as large as the predictor needs it.

    Raises:
        UserError: there is no such file, it cannot be read; the array has another shape, dtype or range.
    """
    if isinstance(image, str | os.PathLike):
        return _read_file(os.fspath(image), predictor)
    pixels = read_array(image)
    return pixels, pixels


def read_whole_image(image: ImageInput) -> np.ndarray:
    """Returns an image (H, W, 3) uint8 RGB, upright. UserError: as `read_image`."""
    if not isinstance(image, str | os.PathLike):
        return read_array(image)
    uri = os.fspath(image)
    data = storage.read_bytes(uri)
    with _named(uri, data):
        return decode_image(data)


def read_array(image: object) -> np.ndarray:
    """Returns an image that is not a file, (H, W, 3) uint8 RGB. UserError: as `read_image`."""
    pixels = _pixels_of(image)
    height, width = pixels.shape[:2]
    if height * width > MAX_PIXELS:
        raise UserError(f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")
    return pixels


def _read_file(uri: str, predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    data = storage.read_bytes(uri)
    with _named(uri, data):
        scaled, size = predictor.decode(data)
        return scaled if scaled.shape[:2] == size else decode_image(data), scaled


@contextlib.contextmanager
def _named(uri: str, data: bytes) -> Iterator[None]:
    """Puts the name in front of what is wrong with a file, and warns of frames that are left out."""
    try:
        yield
    except BadFile as error:  # does not know the name
        raise UserError(f"{storage.redact(uri)}: {error}") from None
    if "frames" in image_kind(data).traits:
        _log.warning("%s has several frames or pages: the first one is labelled", storage.redact(uri))


def _pixels_of(image: object) -> np.ndarray:
    if isinstance(image, Image.Image):
        return rgb_of(ImageOps.exif_transpose(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                "a NumPy image has shape (H, W, 3) and dtype uint8, RGB in 0..255; "
                f"found {image.shape} {image.dtype}{_numpy_hint(image)}"
            )
        return np.ascontiguousarray(image)
    if isinstance(image, torch.Tensor):
        return _pixels_of_tensor(image)
    raise UserError(
        f"an image is a path or URI, a PIL image, a NumPy array or a torch tensor; found {type(image).__name__}"
    )


def _numpy_hint(image: np.ndarray) -> str:
    """Returns what to give instead, for the forms that other libraries have."""
    if image.ndim == 4:
        return ": give a batch as list(batch)"
    if image.ndim == 2:
        return ": give a grey image as np.stack([image] * 3, axis=-1)"
    if image.ndim != 3 or not image.size:
        return ""
    if image.shape[2] == 4:
        return ": give it without its fourth channel, image[..., :3]"
    if image.shape[0] == 3 and image.shape[2] != 3:
        return ": give it as image.transpose(1, 2, 0)"
    if image.shape[2] == 3 and image.dtype.kind == "f":
        return ': give values of 0..1 as (image * 255).round().astype("uint8")'
    return ""


def _pixels_of_tensor(image: torch.Tensor) -> np.ndarray:
    shape, dtype = tuple(image.shape), str(image.dtype).removeprefix("torch.")
    if image.ndim != 3 or shape[0] != 3 or not image.numel():
        hint = ""
        if image.ndim == 4:
            hint = ": give a batch as list(batch)"
        elif image.ndim == 3 and shape[2] == 3:
            hint = ": give it as image.permute(2, 0, 1)"
        raise UserError(f"a torch image has shape (3, H, W), RGB; found {shape} {dtype}{hint}")
    image = image.detach().cpu()
    if image.is_floating_point():
        low, high = float(image.min()), float(image.max())  # NaN if any of the values is
        if not (low >= 0 and high <= 1):
            found = "NaN" if low != low else f"{low:.3g}..{high:.3g}"
            raise UserError(f"a torch image of {dtype} holds values in 0..1, before any normalisation; found {found}")
        image = (image.float() * 255).round().to(torch.uint8)
    elif image.dtype != torch.uint8:
        raise UserError(f"a torch image is uint8 in 0..255 or floating point in 0..1; found {dtype}")
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
