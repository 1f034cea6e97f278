"""The parts of proof/step_5.py that need no training: a model whose names or maps are taken away."""

import torch

from foodseg.config.model import ModelConfig
from foodseg.config.text import TextConfig
from foodseg.models.build import build_segmenter
from foodseg.models.segmenter import Segmenter
from proof.spoiled_names import spoil


def a_model() -> Segmenter:
    torch.manual_seed(0)
    config = ModelConfig(
        kind="diffusion", backbone="tiny", fusion="cross_attention", pyramid_channels=16, decoder_channels=16,
        text=TextConfig(kind="table", table="names"),
    )  # fmt: skip
    return build_segmenter(config, 5, text=torch.randn(5, 16)).eval()


def test_each_name_gets_the_vector_of_another() -> None:
    model = a_model()
    before = model.text_table.clone()
    spoil(model, "names permuted")
    after = model.text_table
    assert torch.equal(after[0], before[0]) and not (after[1:] == before[1:]).all(1).any()
    assert sorted(after[1:, 0].tolist()) == sorted(before[1:, 0].tolist())


def test_the_decoder_sees_maps_of_zeros() -> None:
    seen = []
    for how in ("as trained", "maps zeroed"):
        model = a_model()
        spoil(model, how)  # type: ignore[arg-type]
        model.decoder.lateral[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        with torch.no_grad():
            model(torch.full((1, 3, 64, 64), 0.5))
    told, spoiled = seen
    assert torch.equal(told[:, :48], spoiled[:, :48])
    assert (told[:, 48:] > 0).all() and (spoiled[:, 48:] == 0).all() and told.shape[1] == 48 + 5
