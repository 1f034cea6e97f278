"""What networks cost: parameters and operations are those of the layers, and all are measured."""

import json

import pytest
import torch
from torch import nn

from foodseg.bench import realtime
from foodseg.bench.markdown import bench_markdown
from foodseg.bench.realtime import bench_realtime
from foodseg.errors import UserError


def test_a_convolution_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    (cost,) = realtime._costs({"layer": layer}, 32, 3)
    assert cost.parameters == 5 * 3 * 9 + 5
    assert cost.gflops == pytest.approx(2 * 5 * 3 * 9 * 32 * 32 / 1e9), "a multiply-add counts two"
    assert 0 < cost.least_ms <= cost.median_ms


def test_all_networks_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    costs = realtime._costs
    monkeypatch.setattr(realtime, "_costs", lambda *given: seen.append(torch.get_num_threads()) or costs(*given))
    threads = torch.get_num_threads()
    result = bench_realtime((64,), rounds=1)
    assert seen == [1] and torch.get_num_threads() == threads
    small, medium, default = result.costs
    assert [cost.network for cost in result.costs] == ["realtime S", "realtime M", "default recipe"]
    assert small.parameters < medium.parameters < default.parameters
    assert small.gflops < medium.gflops < default.gflops
    printed = json.loads(json.dumps(result.to_json()))
    assert list(printed)[:4] == ["benchmark", "costs", "classes", "rounds"]
    page = bench_markdown(result)
    assert f"| realtime S | 64 x 64 | {small.parameters / 1e6:.2f} |" in page and "1 images each" in page


def test_a_side_that_not_all_take_is_refused() -> None:
    with pytest.raises(UserError, match=r"--side must be a multiple of 32 pixels, found 100"):
        bench_realtime((100,))
