"""The region classifier: encoders of any kind, shared or not, features or logits, and a distillation head."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config

from foodseg.config.model import ModelConfig
from foodseg.config.roi import RoiConfig
from foodseg.errors import UserError
from foodseg.models.roi import Encoder, RegionNetwork, RegionOutput
from tests.support.compare import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")
VIEWS = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(backbone: str = "test_byobnet", side: int = 32, **roi: object) -> RegionNetwork:
    torch.manual_seed(0)
    model = ModelConfig(kind="roi", backbone=backbone, weights="none")
    return RegionNetwork(model, RoiConfig.model_validate({"hidden": 8, **roi}), side=side, classes=5).eval()


@pytest.mark.parametrize(("views", "encoders"), [("crop", 1), ("roi", 1), ("roi_roi", 2), ("roi_context", 2)])
def test_shapes(views: str, encoders: int) -> None:
    net = network(views=views)
    output = net(VIEWS[:, : net.views])
    assert isinstance(output, RegionOutput) and output.logits.shape == (2, 5) and output.distilled is None
    assert output.averaged is output.logits
    assert len(net.backbone) == encoders


def test_one_encoder_for_both_views() -> None:
    net = network(shared=True)
    assert len(net.backbone) == 1
    swapped = net(VIEWS.flip(1)).logits
    assert not torch.allclose(swapped, net(VIEWS).logits)  # the head tells them apart
    torch.manual_seed(0)
    (encoder,) = net.backbone
    expected = net.head(torch.cat([encoder(VIEWS[:, 0])[0], encoder(VIEWS[:, 1])[0]], 1))
    assert_close(net(VIEWS).logits, expected)


def test_another_encoder_for_the_context() -> None:
    net = network("test_vit", context_backbone="test_resnet", context_weights="none")
    widths = [encoder.width for encoder in net.backbone]  # type: ignore[union-attr]
    assert net.head[0].in_features == sum(widths) and net(VIEWS).logits.shape == (2, 5)


@pytest.mark.parametrize("name", ["test_byobnet", "test_vit", "test_resnet", "test_efficientnet"])
def test_an_encoder_gives_what_timm_gives_normalised_as_it_was_trained(name: str) -> None:
    encoder = Encoder(name, None, 32, logits=False, keys=("model.backbone", "model.weights")).eval()
    taken = resolve_data_config({}, model=encoder.net)
    mean, std = (torch.tensor(taken[part]).view(1, 3, 1, 1) for part in ("mean", "std"))
    normalised = (VIEWS[:, 0] - mean) / std
    with torch.no_grad():
        found, token = encoder(VIEWS[:, 0])
        assert token is None
        assert_close(found, encoder.net(normalised))  # without a classifier timm gives the same features


def test_logits_as_published() -> None:
    net = network(integrate="logits")
    assert net.head[0].in_features == 2000
    assert [encoder.net.num_classes for encoder in net.backbone] == [1000, 1000]  # type: ignore[union-attr]
    assert net(VIEWS).logits.shape == (2, 5)


def tiny_deit(monkeypatch: pytest.MonkeyPatch) -> str:
    """A distilled DeiT of two small blocks under a name that timm does not have."""
    name = "deit_tiny_distilled_patch16_224"
    create = timm.create_model

    def small(model: str, **settings: object) -> torch.nn.Module:
        own = {"depth": 2, "embed_dim": 24, "num_heads": 2} if model == name else {}
        return create(model, **own, **settings)

    monkeypatch.setattr(timm, "create_model", small)
    return name


def test_a_distillation_token_has_a_head_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(tiny_deit(monkeypatch))
    with torch.no_grad():
        output = net(VIEWS)
        assert output.distilled is not None and net.distilled_head is not None
        assert_close(output.averaged, (output.logits + output.distilled) / 2)
        own, other = net.backbone
        parts = [encoder(VIEWS[:, view]) for view, encoder in enumerate((own, other))]
        assert_close(output.logits, net.head(torch.cat([parts[0][0], parts[1][0]], 1)))
        assert_close(output.distilled, net.distilled_head(torch.cat([parts[0][1], parts[1][1]], 1)))
        tokens = own.net.forward_features((VIEWS[:, 0] - own.mean) / own.std)
        assert_close(parts[0][0], tokens[:, 0])
        assert_close(parts[0][1], tokens[:, 1])


def test_a_distillation_needs_the_token() -> None:
    with pytest.raises(UserError, match=r"needs a model.backbone with a distillation token.*'test_byobnet' has none"):
        network(distill="hard")


def test_vits_take_any_side() -> None:
    assert network("test_vit", side=40)(torch.rand(1, 2, 3, 40, 40)).logits.shape == (1, 5)


def test_a_size_that_an_encoder_does_not_take() -> None:
    with pytest.raises(UserError, match=r"model.backbone 'mixer_s32_224' does not take views of augment.crop = 40"):
        network("mixer_s32_224", side=40)


def test_an_unknown_encoder_is_named_with_its_key() -> None:
    with pytest.raises(UserError, match=r"roi.context_backbone: timm has no model 'resnet1'"):
        network(context_backbone="resnet1", context_weights="none")


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = timm.create_model("test_vit", num_classes=1000)
    file = tmp_path / "vit.safetensors"
    save_file(source.state_dict(), file)
    model = ModelConfig(kind="roi", backbone="test_vit", weights=str(file))
    net = RegionNetwork(model, RoiConfig(hidden=8), side=64, classes=5)
    for encoder in net.backbone:
        assert torch.equal(encoder.net.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)  # type: ignore[union-attr]
    assert RegionNetwork(model, RoiConfig(hidden=8), side=64, classes=5, pretrained=False)
