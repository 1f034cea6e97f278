"""A model whose names or maps are taken away."""

import torch

from experiments.diffusion.spoiled_names import exchanged, spoil
from foodseg.config.model import ModelConfig
from foodseg.config.text import TextConfig
from foodseg.models.build import build_segmenter
from foodseg.models.segmenter import SegmenterNetwork


def a_model() -> SegmenterNetwork:
    torch.manual_seed(0)
    config = ModelConfig(
        kind="diffusion", backbone="tiny", fusion="cross_attention", pyramid_channels=16, decoder_channels=16,
        text=TextConfig(kind="table", table="names"),
    )  # fmt: skip
    return build_segmenter(config, 5, text=torch.randn(5, 16)).eval()


def test_each_class_gets_the_embedding_of_another() -> None:
    model = a_model()
    before = model.text_table.clone()
    spoil(model, "embeddings exchanged")
    after = model.text_table
    assert torch.equal(after[0], before[0]) and not (after[1:] == before[1:]).all(1).any()
    assert sorted(after[1:, 0].tolist()) == sorted(before[1:, 0].tolist())
    # of four names the third is used instead of the first
    assert torch.equal(after[1:], before[[3, 4, 1, 2]])


def test_one_name_alone_stays_itself() -> None:
    assert [exchanged(1, 2)] == [1] and [exchanged(i, 4) for i in (1, 2, 3)] == [2, 3, 1]


def test_the_decoder_sees_maps_of_zeros() -> None:
    seen = []
    for how in ("as trained", "maps zeroed"):
        model = a_model()
        spoil(model, how)  # type: ignore[arg-type]
        model.decoder.lateral[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        with torch.no_grad():
            shares = model(torch.full((1, 3, 64, 64), 0.5)).maps[0]
        if how == "as trained":
            assert torch.equal(seen[0][:, 48:], 6 * shares[:, :5])  # six tokens with the null one: 1 is an equal share
    trained, spoiled = seen
    assert torch.equal(trained[:, :48], spoiled[:, :48])
    assert torch.allclose(
        trained[:, 48:].sum(1), torch.tensor(6.0), atol=2.0
    )  # six tokens with the null one: 1 on average
    assert (trained[:, 48:] > 0).all() and (spoiled[:, 48:] == 0).all() and trained.shape[1] == 48 + 5
