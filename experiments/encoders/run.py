"""Which encoder is best out of fold: convolutional, a plain ViT, or both? `python -m experiments encoders`.

`crops` measures whether the tokens of a crop can be cut from those of the whole image. Each other item trains one
encoder at 192 px on five folds; `table` compares them.
"""

from functools import partial
from typing import Any

import torch

from experiments.fold_runs import Group, fold_group, fold_table
from experiments.foodmix import prepared_foodmix, vit_weights
from experiments.item_queue import Bench, Item
from experiments.variants import (
    BF16,
    FASTER_ENCODER,
    HYBRID,
    LAST_BLOCKS,
    PLAIN_VIT,
    RARE,
    SCALES,
    VIT,
    WHOLE_VIT,
    Settings,
)
from foodseg.config.vit import IMAGENET_MEAN, IMAGENET_STD, ViTConfig
from foodseg.data.image_io import decode_image, fit_longest, resize_image
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.models.backbones.vit import STRIDE, TokenEncoder

FOLDER = "encoders"
SIDE, STEPS = 192, 505
SCORED: Settings = ("eval.flip=true", f"eval.longest_side={SIDE * 5 // 4}")
TRAINED: Settings = (f"train.steps={STEPS}", "train.ema_horizon=0.1", BF16, *RARE, FASTER_ENCODER)
LITE0 = "Lite0"
ENCODERS: dict[str, tuple[str, Settings]] = {
    "lite0": (LITE0, ()),
    "vit_frozen": ("ViT-S/14, frozen", PLAIN_VIT),
    "vit_full": ("ViT-S/14", (*PLAIN_VIT, "model.vit.trained=full", "optim.backbone_lr_factor=0.1")),
    "hybrid": ("Lite0 and ViT-S/14, frozen", HYBRID),
    "hybrid_last": ("Lite0 and ViT-S/14, last 4 blocks trained", LAST_BLOCKS),
    "hybrid_full": ("Lite0 and ViT-S/14, trained", WHOLE_VIT),
}


# the encoder of the best recipe decides how that is scored, too
MORE_WAYS: dict[str, dict[str, Settings]] = {
    "hybrid_full": {"Lite0 and ViT-S/14, trained, three scales": (*SCORED, *SCALES)}
}
GROUPS = {
    item: Group(FOLDER, item, SIDE, (*TRAINED, *settings), {name: SCORED, **MORE_WAYS.get(item, {})})
    for item, (name, settings) in ENCODERS.items()
}
CROPPED, CROP = 320, 192  # pixels of the longer side of an image, and of the crops that are cut from it


@torch.no_grad()
def crops(bench: Bench) -> dict[str, Any]:
    """How near tokens that are cut from the map of the whole image are to those of the crop itself, on all of val.

    The crops begin at multiples of the tokens' stride, so that both have the same grid. "border": tokens at the edge of
    the crop; "right": tokens for which the nearest of all tokens of the cut is the one of the same cell.
    """
    data = str(prepared_foodmix(bench))
    encoder = TokenEncoder(VIT, ViTConfig(), str(vit_weights(bench))).eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    generator = torch.Generator().manual_seed(0)
    cosines, right = [], []
    for file in RowReader(data, read_manifest(data), ["val"]).column("image").to_pylist():
        image = decode_image(file)
        pixels = torch.from_numpy(resize_image(image, *fit_longest(*image.shape[:2], CROPPED)))
        view = (pixels.permute(2, 0, 1)[None].float() / 255 - mean) / std
        view = view[:, :, : view.shape[2] // STRIDE * STRIDE, : view.shape[3] // STRIDE * STRIDE]
        sides = [min(CROP, side) for side in view.shape[2:]]
        corner = [
            int(torch.randint((whole - part) // STRIDE + 1, (1,), generator=generator)) * STRIDE
            for whole, part in zip(view.shape[2:], sides, strict=True)
        ]
        crop = view[:, :, corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]]
        top, left, height, width = (value // STRIDE for value in (*corner, *sides))
        cut = encoder(view)[:, :, top : top + height, left : left + width]
        own, other = (torch.nn.functional.normalize(tokens.flatten(2)[0], dim=0) for tokens in (encoder(crop), cut))
        similar = own.T @ other
        cosines.append(similar.diagonal().view(height, width))
        right.append((similar.argmax(1) == torch.arange(height * width)).float())
    inner = torch.cat([each[1:-1, 1:-1].flatten() for each in cosines])
    whole = torch.cat([each.flatten() for each in cosines])
    border = (whole.sum() - inner.sum()) / (len(whole) - len(inner))
    return {
        "images": len(cosines),
        "cosine": {"mean": round(float(whole.mean()), 4), "inner": round(float(inner.mean()), 4),
                   "border": round(float(border), 4), "5 % quantile": round(float(whole.quantile(0.05)), 4)},
        "right": round(float(torch.cat(right).mean()), 4),
    }  # fmt: skip


def table(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with Lite0, by the student's and by averaged weights."""
    return fold_table(bench, FOLDER, LITE0)


ITEMS: list[Item] = [
    ("crops", crops),
    *((item, partial(fold_group, group=group)) for item, group in GROUPS.items()),
    ("table", table),
]
