"""Clicks that share what they have in common give the masks of segment-anything's own decoder."""

import pytest
import torch
from segment_anything.modeling import Sam

from foodseg.models.sam.click_decoder import ClickDecoder
from tests.support.compare import assert_close
from tests.unit.models.sam.test_sam import tiny_sam


def by_the_package(sam: Sam, features: torch.Tensor, clicks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.ones(len(clicks), 1, dtype=torch.int)
    sparse, dense = sam.prompt_encoder(points=(clicks[:, None], labels), boxes=None, masks=None)
    return sam.mask_decoder(
        image_embeddings=features,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )


@pytest.mark.parametrize("count", [1, 5])
@torch.inference_mode()
def test_masks_and_ratings_are_those_of_the_package(count: int) -> None:
    sam = tiny_sam()
    side = sam.image_encoder.img_size
    generator = torch.Generator().manual_seed(count)
    width, size = sam.prompt_encoder.no_mask_embed.weight.shape[1], sam.prompt_encoder.image_embedding_size
    features = torch.randn(1, width, *size, generator=generator)
    clicks = torch.rand(count, 2, generator=generator) * side
    logits, ratings = by_the_package(sam, features, clicks)
    decoder = ClickDecoder(sam, features)
    found = decoder.masks(clicks, -float("inf"))
    assert_close(found.logits, logits.flatten(0, 1))
    assert_close(found.ratings, ratings.flatten())
    assert found.clicks.tolist() == [click for click in range(count) for _ in range(3)]
    # those alone that are rated well, of the clicks that have any
    least = float(ratings.flatten().sort().values[-2:].mean()) if count == 1 else float(ratings.median())
    good = ratings > least
    some = decoder.masks(clicks, least)
    assert 0 < good.sum() < good.numel()
    assert_close(some.logits, logits[good])
    assert_close(some.ratings, ratings[good])
    assert some.clicks.tolist() == torch.nonzero(good)[:, 0].tolist()


@torch.inference_mode()
def test_no_mask_is_rated_well() -> None:
    sam = tiny_sam()
    size = sam.prompt_encoder.image_embedding_size
    features = torch.zeros(1, sam.prompt_encoder.no_mask_embed.weight.shape[1], *size)
    found = ClickDecoder(sam, features).masks(torch.tensor([[3.0, 4.0]]), 99.0)
    assert found.logits.shape == (0, 4 * size[0], 4 * size[1]) and len(found.ratings) == len(found.clicks) == 0
