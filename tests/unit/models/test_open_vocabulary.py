"""A network that is fitted: planted colours, names that it never saw, and what it is asked for."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from foodseg.errors import UserError
from foodseg.models.open_vocabulary import NamedSegmenter, OpenVocabularyNetwork, cell_ids

IGNORE = 255
GREY = [0.5, 0.5, 0.5]
# a name's embedding is its colour, which a regression learns from other colours
COLOURS = torch.tensor(
    [GREY, [0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1], [0.1, 0.9, 0.9], [0.9, 0.5, 0.1],
     [0.5, 0.1, 0.5], [0.5, 0.9, 0.9], [0.1, 0.4, 0.2]]
)  # fmt: skip
PURPLE, ROSE = [0.6, 0.1, 0.8], [0.95, 0.5, 0.6]  # no training image has them


class Colours(nn.Module):
    """An encoder whose tokens are colours, and whether they are any."""

    channels = 4

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean = torch.nn.functional.avg_pool2d(image, 16, ceil_mode=True)
        return torch.cat([mean, (mean.amax(1) - mean.amin(1) > 0.2)[:, None].float()], 1)


def unfitted() -> OpenVocabularyNetwork:
    return OpenVocabularyNetwork(Colours(), COLOURS, (0, 0, 0), (1, 1, 1)).eval()  # type: ignore[arg-type]


def painted(*quadrants: list[float], side: int = 64, noise: float = 0.02) -> torch.Tensor:
    """An image of 2 x 2 squares of colours, (1, 3, 2 side, 2 side)."""
    image = torch.tensor(quadrants).view(2, 2, 3).repeat_interleave(side, 0).repeat_interleave(side, 1)
    generator = torch.Generator().manual_seed(0)
    return (image + noise * torch.randn(image.shape, generator=generator)).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def fitted() -> OpenVocabularyNetwork:
    network = unfitted()
    moments = network.new_moments()
    for own in range(1, len(COLOURS)):
        other = 1 + own % (len(COLOURS) - 1)
        image = painted(GREY, COLOURS[own].tolist(), COLOURS[other].tolist(), GREY)
        mask = torch.tensor([[0, own], [other, 0]]).repeat_interleave(64, 0).repeat_interleave(64, 1)[None]
        assert network.accumulate(moments, image, mask, IGNORE) == 64
    network.add(moments)
    return network


def test_the_classes_that_it_was_fitted_to(fitted: OpenVocabularyNetwork) -> None:
    image = painted(GREY, COLOURS[2].tolist(), COLOURS[5].tolist(), COLOURS[7].tolist())
    output = fitted(image)
    assert output.logits.shape == (1, len(COLOURS), 8, 8) and output.stride == 16
    ids = output.logits.argmax(1)[0]
    assert ids[:4, :4].unique().tolist() == [0] and ids[:4, 4:].unique().tolist() == [2]
    assert ids[4:, :4].unique().tolist() == [5] and ids[4:, 4:].unique().tolist() == [7]


@pytest.mark.parametrize("shape", [(128, 128), (128, 100), (70, 128)])
def test_names_that_were_never_seen(fitted: OpenVocabularyNetwork, shape: tuple[int, int]) -> None:
    text = torch.tensor([PURPLE, ROSE])
    image = painted(GREY, PURPLE, ROSE, GREY)[:, :, : shape[0], : shape[1]]
    named = NamedSegmenter(fitted, text, [1, 2], [-1, -1])
    ids = named(image).logits.argmax(1)[0]
    truth = (
        torch.tensor([[0, 1], [2, 0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)[: ids.shape[0], : ids.shape[1]]
    )
    for own in (1, 2):
        both = (ids == own) | (truth == own)
        if (truth == own).any():
            assert float(((ids == own) & (truth == own)).sum() / both.sum()) > 0.9
    exchanged = NamedSegmenter(fitted, text.flip(0), [1, 2], [-1, -1])(image).logits.argmax(1)[0]
    assert torch.equal(exchanged, torch.tensor([0, 2, 1])[ids])


def test_what_another_class_fits_better_is_none_of_the_names(fitted: OpenVocabularyNetwork) -> None:
    image = painted(GREY, PURPLE, COLOURS[2].tolist(), COLOURS[4].tolist())
    ids = NamedSegmenter(fitted, torch.tensor([PURPLE]), [1], [-1])(image).logits.argmax(1)[0]
    assert ids[:4, 4:].unique().tolist() == [1] and not ids[4:].any()
    # a trained class that is named is no competitor, and has its prototype whatever its embedding
    nonsense = torch.tensor([PURPLE, ROSE])
    ids = NamedSegmenter(fitted, nonsense, [1, 2], [-1, 2])(image).logits.argmax(1)[0]
    assert ids[4:, :4].unique().tolist() == [2]


def test_several_words_for_a_name(fitted: OpenVocabularyNetwork) -> None:
    image = painted(GREY, PURPLE, ROSE, GREY)
    ids = NamedSegmenter(fitted, torch.tensor([PURPLE, ROSE]), [1, 1], [-1, -1])(image).logits.argmax(1)[0]
    assert ids[:4, 4:].unique().tolist() == [1] and ids[4:, :4].unique().tolist() == [1]


def test_before_it_is_fitted_there_is_nothing_to_say() -> None:
    network = unfitted()
    assert not network(painted(GREY, PURPLE, ROSE, GREY)).logits.any()
    moments = network.new_moments()
    network.accumulate(moments, torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.long), IGNORE)
    network.add(moments)
    with pytest.raises(UserError, match="needs background and two foods, and found 1 foods and 0 images"):
        network(torch.rand(1, 3, 32, 32))


def test_its_state_is_all_of_it(fitted: OpenVocabularyNetwork) -> None:
    image = painted(GREY, COLOURS[2].tolist(), COLOURS[5].tolist(), COLOURS[7].tolist())
    other = unfitted()
    other(image)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(image).logits, fitted(image).logits)
    twice = copy.deepcopy(fitted)
    twice.add(fitted.moments)  # every image twice is every image once
    torch.testing.assert_close(twice(image).logits, fitted(image).logits, rtol=1e-3, atol=1e-3)


def test_cells_have_a_class_where_it_fills_three_quarters() -> None:
    mask = torch.zeros(1, 32, 40, dtype=torch.long)
    mask[0, :16, 12:16] = 3  # a quarter of the first cell
    mask[0, :16, 16:28], mask[0, :16, 28:32] = 5, 6  # three quarters and one
    mask[0, 16:, :8] = 7  # half
    mask[0, 16:, 16:32] = IGNORE
    ids = cell_ids(mask, (2, 3), 9, IGNORE)
    # of the last column half a cell is beyond the image
    assert ids.tolist() == [[[0, 5, -1], [-1, -1, -1]]]
    assert ids.dtype == torch.int64
    one_row = cell_ids(torch.full((1, 16, 16), 2), (1, 1), 3, IGNORE)
    assert np.array_equal(one_row, [[[2]]])
