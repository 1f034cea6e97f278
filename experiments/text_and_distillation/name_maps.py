"""Heat maps of a model with text, by pixel and class name, with right, wrong and missing conditioning classes."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.classes import ClassTable
from foodseg.data.image_io import decode_image, decode_mask, fit_longest, resize_image, resize_mask
from foodseg.report.overlay import LEGEND_BACKGROUND, LEGEND_TEXT, contact_sheet, overlay

CELL, LINE, NAMES = 300, 22, 3


def draw_name_maps(run: Path, folder: Path, stems: Sequence[str], out: Path) -> dict[str, dict[str, float]]:
    """Writes one contact sheet: per meal a row each with right and wrong classes, and without the largest class.

    Args:
        run: of a model whose fusion is score_map or cross_attention. folder: images in the folder layout.

    Returns:
        Per meal and conditioning, the share of the truth's food pixels that are labelled correctly.
    """
    loaded = load_checkpoint(resolve_checkpoint(str(run)))
    model = load_model(loaded, "ema").eval()
    rows, found = [], {}
    for stem in stems:
        data, masked = ((folder / part).read_bytes() for part in (f"images/{stem}.jpg", f"masks/{stem}.png"))
        mask = decode_mask(masked)
        height, width = fit_longest(*mask.shape, loaded.config.eval.longest_side or max(mask.shape))
        image, truth = resize_image(decode_image(data), height, width), resize_mask(mask, height, width)
        pixels = np.bincount(truth[truth != loaded.classes.ignore_id], minlength=len(loaded.classes))
        pixels[0] = 0
        right = [int(index) for index in np.argsort(-pixels, kind="stable") if pixels[index]]
        wrong = [index for index in range(1, len(loaded.classes)) if index not in right][: len(right)]
        found[stem] = {}
        for kind, listed in (("right", right), ("wrong", wrong), ("missing the largest", right[1:])):
            ids, maps = _look(model, image, listed)
            food = np.isin(truth, right)
            found[stem][kind] = round(float((ids == truth)[food].mean()), 4)
            cells = [
                _captioned(_labelled(image, truth.astype(ids.dtype), loaded.classes), f"{stem}: truth"),
                _captioned(
                    _labelled(image, ids, loaded.classes), f"classes: {kind}, {100 * found[stem][kind]:.0f} % right"
                ),
            ]
            for index in right[:NAMES]:
                cells.append(_captioned(_heat(image, maps[index]), loaded.classes.names[index]))
            blank = np.full_like(cells[0], LEGEND_BACKGROUND)
            rows.append(np.concatenate([*cells, *[blank] * (NAMES + 2 - len(cells))], 1))
    Image.fromarray(np.concatenate(rows)).save(out)
    return found


@torch.inference_mode()
def _look(model: torch.nn.Module, image: np.ndarray, listed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label map (H, W) and the map of each class name, (K, H, W) float32, at the image's size."""
    height, width = image.shape[:2]
    multiple = model.size_multiple
    canvas = model.mean.expand(1, 3, -(-height // multiple) * multiple, -(-width // multiple) * multiple).clone()
    canvas[0, :, :height, :width] = torch.from_numpy(image).permute(2, 0, 1) / 255
    allowed = torch.zeros(1, model.classifier.out_channels, dtype=torch.bool)
    allowed[0, list(listed)] = True
    sizes = {"size": canvas.shape[-2:], "mode": "bilinear", "align_corners": False}
    logits, maps = (
        torch.nn.functional.interpolate(values, **sizes)[0, :, :height, :width]
        for values in (model(canvas, ingredients=allowed).logits, model.class_maps(canvas, allowed))
    )
    return logits.argmax(0).numpy().astype(np.uint8), maps.numpy()


def _labelled(image: np.ndarray, ids: np.ndarray, classes: ClassTable) -> np.ndarray:
    """The image with its labels, enlarged so that the legend does not outgrow it."""
    size = fit_longest(*ids.shape, 3 * CELL)
    return overlay(resize_image(image, *size), resize_mask(ids, *size), classes)


def _heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A grey image under the values, blue (least on it) to red (most on it)."""
    low, high = float(values.min()), float(values.max())
    scaled = ((values - low) / max(1e-6, high - low) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    noted = cv2.addWeighted(grey, 0.4, colours, 0.6, 0)
    strip = Image.new("RGB", (noted.shape[1], LINE), LEGEND_BACKGROUND)
    ImageDraw.Draw(strip).text((4, LINE / 2), f"{low:.2f} to {high:.2f}", LEGEND_TEXT, _font(), anchor="lm")
    return np.concatenate([noted, np.asarray(strip)])


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    line = Image.new("RGB", (CELL, LINE), LEGEND_BACKGROUND)
    ImageDraw.Draw(line).text((4, LINE / 2), text, LEGEND_TEXT, _font(), anchor="lm")
    return np.concatenate([np.asarray(line), contact_sheet([image], 1, CELL)])


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(13)
