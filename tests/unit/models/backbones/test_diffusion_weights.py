"""Weights of Stable Diffusion in diffusers' layout, written and read with the tiny model of the same classes."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import diffusers
import httpx
import pytest
import safetensors.torch
import torch

from foodseg import storage
from foodseg.config.model import ModelConfig
from foodseg.errors import RetryLater, UserError
from foodseg.models.backbones import diffusion_weights
from foodseg.models.backbones.diffusion import Diffusion
from foodseg.models.backbones.diffusion_weights import build_diffusion, require_diffusion, unet_architecture

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder as Stable Diffusion is published: more in it than is wanted, and old keys of its configuration gone."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(5)
    diffusers.UNet2DConditionModel(**unet_architecture("tiny", 16)).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(**diffusion_weights._TINY_VAE).save_pretrained(folder / "vae")
    where = folder / "unet" / "config.json"
    tree = json.loads(where.read_text())
    del tree["use_linear_projection"]  # as in that of Stable Diffusion 1.5
    where.write_text(json.dumps(tree))
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_text("of half precision")
    (folder / "model_index.json").write_text("{}")
    return folder


def config(weights: Path | str | None = None, backbone: str = "tiny", **settings) -> ModelConfig:
    text = {"kind": "table", "table": "names", "centre": False}
    conditioned = {"fusion": "cross_attention", "text": text}
    tree = {"kind": "diffusion", "backbone": backbone, "weights": weights and str(weights), **conditioned, **settings}
    return ModelConfig(**tree)


def is_that_of(backbone: Diffusion, folder: Path) -> bool:
    stored = {part: safetensors.torch.load_file(folder / part / WEIGHTS) for part in ("unet", "vae")}
    own = {part: getattr(backbone, part).state_dict() for part in stored}
    assert len(own["unet"]) > 600 and not any(name.startswith("decoder") for name in own["vae"])
    return all(torch.equal(own[part][name], stored[part][name]) for part in own for name in own[part])


def test_a_folder(published):
    assert is_that_of(build_diffusion(config(published), 16, pretrained=True), published)


def test_object_storage(published, monkeypatch):
    """Only what is loaded is fetched; for the check before a run the configurations alone."""
    fetched = []

    def download(uri: str, to: Path) -> None:
        fetched.append(Path(uri).name)
        storage.download(uri, to)

    remote = SimpleNamespace(**{**vars(storage), "is_local": lambda uri: False, "download": download})
    monkeypatch.setattr(diffusion_weights, "storage", remote)
    require_diffusion(config(published), 16, pretrained=True)
    assert fetched == ["config.json"] * 2
    assert is_that_of(build_diffusion(config(published), 16, pretrained=True), published)
    assert sorted(fetched[2:]) == sorted(["config.json", WEIGHTS] * 2)


def test_the_hub(published, monkeypatch):
    """The name reaches diffusers as it is published."""
    asked = []
    for kind in (diffusers.UNet2DConditionModel, diffusers.AutoencoderKL):
        for method in ("load_config", "from_pretrained"):
            plain = getattr(kind, method)

            def local(name, *, subfolder, plain=plain, **settings):
                asked.append((name, subfolder))
                return plain(str(published), subfolder=subfolder, **settings)

            monkeypatch.setattr(kind, method, local)
    assert is_that_of(build_diffusion(config("hf://owner/sd-tiny"), 16, pretrained=True), published)
    first = [each for each in asked if each[0] != str(published)]  # from_pretrained asks for the configuration again
    assert set(first) == {("owner/sd-tiny", "unet"), ("owner/sd-tiny", "vae")}


@pytest.mark.parametrize("method", ["load_config", "from_pretrained"])
def test_a_hub_that_does_not_answer_may_do_so_later(published, monkeypatch, method):
    def away(name, **settings):
        try:
            raise httpx.ConnectTimeout("timed out")
        except httpx.ConnectTimeout:
            raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")  # noqa: B904  # as diffusers

    load_config = diffusers.AutoencoderKL.load_config
    monkeypatch.setattr(
        diffusers.AutoencoderKL, "load_config", lambda name, **settings: load_config(str(published), **settings)
    )
    monkeypatch.setattr(diffusers.AutoencoderKL, method, away)
    with pytest.raises(RetryLater, match=r"^model.weights: the hub does not answer about hf://owner/tiny \(We"):
        build_diffusion(config("hf://owner/tiny"), 16, pretrained=True)


def test_too_little_memory_is_no_fault_of_the_weights(published, monkeypatch):
    def full(*args, **settings):
        raise MemoryError

    monkeypatch.setattr(diffusers.AutoencoderKL, "from_pretrained", full)
    with pytest.raises(MemoryError):
        build_diffusion(config(published), 16, pretrained=True)


def test_a_checkpoint_follows(tmp_path):
    """Then nothing is looked for."""
    backbone = build_diffusion(config(tmp_path / "nowhere"), 16, pretrained=False)
    assert backbone.unet.config.cross_attention_dim == 16


def spoiled(folder: Path, how: str) -> None:
    unet = folder / "unet"
    if how == "empty":
        shutil.rmtree(folder)
    elif how == "no weights":
        (unet / WEIGHTS).unlink()
        (unet / "diffusion_pytorch_model.fp16.safetensors").unlink()
    elif how == "no object":
        (unet / "config.json").write_text("[]")
    elif how == "damaged":
        (unet / WEIGHTS).write_bytes(b"x" * 100)
    elif how == "tensors are missing":
        state = safetensors.torch.load_file(unet / WEIGHTS)
        del state["mid_block.resnets.0.conv1.weight"]
        safetensors.torch.save_file(state, unet / WEIGHTS)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty", r"there is no vae/config.json in .*spoiled: it must be a folder .* hf://owner/name"),
        ("no weights", "spoiled does not give the unet of Stable Diffusion"),
        ("no object", "spoiled does not give the unet/config.json of Stable Diffusion"),
        ("damaged", "spoiled does not give the unet of Stable Diffusion"),
        ("tensors are missing", r"spoiled does not give the unet .*mid_block.resnets.0.conv1.weight"),
    ],
)
def test_spoiled_folders(published, tmp_path, how, words):
    shutil.copytree(published, tmp_path / "spoiled")
    spoiled(tmp_path / "spoiled", how)
    with pytest.raises(UserError, match=words) as error:
        build_diffusion(config(tmp_path / "spoiled"), 16, pretrained=True)
    assert "\n" not in str(error.value) and str(error.value).startswith("model.weights: ")


def test_another_architecture(published):
    """It is said before anything large is read."""
    with pytest.raises(UserError, match=r"another vae than that of model.backbone = sd1: block_out_channels is \[16, "):
        require_diffusion(config(published, "sd1"), 768, pretrained=True)
    with pytest.raises(UserError, match=r"another unet .*: cross_attention_dim is 16 there, 24 here"):
        build_diffusion(config(published), 24, pretrained=True)


@pytest.mark.parametrize(("backbone", "wanted", "model"), [("sd1", 768, "ViT-L-14"), ("sd2", 1024, "ViT-H-14")])
def test_vectors_of_another_width(backbone, wanted, model):
    with pytest.raises(
        UserError, match=f"embeddings of 384 numbers, .* takes tokens of {wanted}: .*text.model={model}"
    ):
        require_diffusion(config(None, backbone), 384, pretrained=False)
    require_diffusion(config(None, backbone), wanted, pretrained=False)


def test_stable_diffusion_2_is_built_as_published():
    """Counted without memory; 865,910,724 is the number of Stable Diffusion 2."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**unet_architecture("sd2"))
    assert sum(parameter.numel() for parameter in unet.parameters()) == 865_910_724


@pytest.mark.parametrize(
    ("package", "settings", "words"),
    [("diffusers", {}, "model.kind = diffusion needs"), ("peft", {"diffusion": {"unet": "lora"}}, "unet = lora needs")],
)
def test_without_the_package(monkeypatch, package, settings, words):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{words} the package {package}: pip install 'foodseg\[diffusion\]'"):
        require_diffusion(config(**settings), 16, pretrained=False)
