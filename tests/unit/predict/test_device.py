"""auto takes a GPU where there is one; a GPU that is asked for by name and not there is a refusal."""

import pytest
import torch

from foodseg.errors import UserError
from foodseg.losses.cross_entropy import sum_dtype
from foodseg.predict.device import device_name, has_mps, parse_device, pick_device


@pytest.fixture(
    params=[(False, False), (False, True), (True, False), (True, True)], ids=["none", "mps", "cuda", "both"]
)
def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    cuda, mps = request.param
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    return cuda, mps


def test_which_device(found: tuple[bool, bool]) -> None:
    cuda, mps = found
    best = "cuda" if cuda else "mps" if mps else "cpu"
    assert pick_device() == pick_device("auto") == torch.device(best)
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto", mps=False) == torch.device("cuda" if cuda else "cpu")
    assert has_mps() == mps
    if cuda or mps:
        assert pick_device("gpu") == torch.device(best)
    else:
        with pytest.raises(UserError, match=r"^a GPU is wanted, but torch finds neither CUDA nor mps here: choose"):
            pick_device("gpu")


@pytest.mark.parametrize("value", ["auto", "cpu", "gpu"])
def test_values_of_the_option(value: str) -> None:
    assert parse_device(value) == value


@pytest.mark.parametrize("value", ["cuda", "GPU", "", "mps", "cuda:0"])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"^--device '.*': use auto, cpu or gpu$"):
        parse_device(value)


def test_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA A10G")
    words = [device_name(torch.device(name)) for name in ("cuda", "mps", "cpu")]
    assert words == ["GPU (NVIDIA A10G)", "GPU (mps)", "CPU"]


def test_sums_have_a_type_that_the_device_knows() -> None:
    assert [sum_dtype(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [
        torch.float64,
        torch.float64,
        torch.float32,
    ]
