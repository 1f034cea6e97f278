"""Published weights: from the hub once, then from the cache; where they cannot be had, one sentence, at once."""

import re
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from foodseg.config.model import ModelConfig
from foodseg.errors import UserError
from foodseg.models.backbones import timm_hub
from foodseg.models.build import build_segmenter
from tests.support.hub_server import HubServer

NAME = "test_efficientnet"
REPOSITORY = "timm/test_efficientnet.r160_in1k"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with weights for one model, and an empty cache."""
    folder = tmp_path / "hub" / REPOSITORY
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    safetensors.torch.save_file(timm.create_model(NAME).state_dict(), folder / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def build():
    torch.manual_seed(0)
    return build_segmenter(ModelConfig(backbone=NAME, pyramid_channels=16, decoder_channels=16), 5)


def test_they_are_downloaded_once(hub, monkeypatch):
    assert not timm_hub.weights_cached(NAME)
    model = build()
    stored = safetensors.torch.load_file(hub.folder / REPOSITORY / "model.safetensors")
    own = model.backbone.backbone.state_dict()
    assert own and all(torch.equal(own[name], stored[name]) for name in own)
    asked = len(hub.requests)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = build()
    assert len(hub.requests) == asked > 0 and timm_hub.weights_cached(NAME)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_what_is_not_in_the_file_starts_as_with_random_weights(hub):
    """So that runs with and without published weights differ in the backbone alone."""
    torch.manual_seed(0)
    random = build_segmenter(ModelConfig(backbone=NAME, weights="none", pyramid_channels=16, decoder_channels=16), 5)
    assert torch.equal(random.classifier.weight, build().classifier.weight)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("gone", r"http://127\.0\.0\.1:9 is not reachable \(.*onnection refused.*\)"),
        ("broken", r"http://127\.0\.0\.1:\d+ answers 503"),
        ("unknown", r"http://127\.0\.0\.1:\d+ answers 401"),
        ("gated", r"http://127\.0\.0\.1:\d+ answers 403"),
        ("offline", "HF_HUB_OFFLINE forbids to ask the hub"),
        ("nonsense", r"ftp://nowhere is not reachable \(.*\)"),
    ],
)
def test_a_hub_that_gives_none(hub, monkeypatch, change, reason):
    if change == "gone":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    elif change == "nonsense":
        monkeypatch.setenv("HF_ENDPOINT", "ftp://nowhere")
    elif change == "broken":
        hub.broken = 503
    elif change == "unknown":
        (hub.folder / REPOSITORY).rename(hub.folder / "elsewhere")
    elif change == "gated":
        hub.gated.add(REPOSITORY)
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        build()
    said = str(caught.value)
    assert time.monotonic() - started < 8  # huggingface_hub alone tries for 45 s
    assert re.fullmatch(
        r"model\.weights = timm: the weights of 'test_efficientnet' are not in the cache of this machine, and "
        + reason
        + r": name a \.safetensors file or its s3:// URI, or set model\.weights=none to start from random weights",
        said,
    ), said


def test_an_older_form_is_left_to_timm(hub):
    """A repository without model.safetensors."""
    file = hub.folder / REPOSITORY / "model.safetensors"
    torch.save(safetensors.torch.load_file(file), Path(file.parent, "pytorch_model.bin"))
    file.unlink()
    assert timm_hub.published_weights(NAME) is None
