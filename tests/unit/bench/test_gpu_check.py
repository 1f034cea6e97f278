"""`make gpu-check` with a tiny model on the CPU: every figure is there, and the CPU equals itself."""

import json

import pytest
import torch

from foodseg.bench.gpu_check import TINY, gpu_check, main

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_cpu_passes(tmp_path) -> None:
    found = gpu_check(TINY, torch.device("cpu"), tmp_path)
    assert json.loads(json.dumps(found)) == found
    assert found["device"] == "CPU" and "synthetic" in found["images"] and found["passed"]
    terms = {"cross_entropy", "dice", "ingredients", "distill", "features", "stages", "deeper"}
    assert found["equal"]["fp32"]["losses"].keys() == terms
    assert found["equal"]["fp32"]["gradients"] < 1e-5 < found["equal"]["bf16"]["gradients"]
    assert found["images_per_second"].keys() == {"train", "predict", "endpoint"}
    assert all(speed > 0 for part in found["images_per_second"].values() for speed in part.values())
    assert found["peak_memory_mib"] > 0
    waits = found["synchronisations"]
    assert waits["aten::item"] > 0 == waits["cudaStreamSynchronize"] == waits["cudaEventSynchronize"]


@pytest.mark.parametrize("passed", [True, False])
def test_the_command_prints_one_json_object_and_its_status_is_the_verdict(passed, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr("foodseg.bench.gpu_check.gpu_check", lambda *given: asked.append(given) or {"passed": passed})
    monkeypatch.setattr("sys.argv", ["gpu_check", "--tiny"])
    assert main() == (0 if passed else 1)
    assert json.loads(capsys.readouterr().out) == {"passed": passed}
    assert asked[0][0] is TINY and not asked[0][2].exists(), "a folder that is removed"
