"""The benchmarks over Ray, short: that they measure, not what."""

from pathlib import Path
from typing import Any

import pytest

from foodseg.bench import ray_train
from foodseg.bench.markdown import bench_markdown
from foodseg.bench.ray_data import bench_data
from foodseg.bench.ray_serve import bench_serve
from foodseg.bench.ray_train import bench_train
from foodseg.config import ExperimentConfig
from foodseg.config.load import config_hash
from foodseg.errors import UserError
from tests.support.synthetic_set import synthetic_config, write_synthetic
from tests.support.tiny_checkpoints import free_port, write_checkpoint

pytestmark = pytest.mark.measurement


def test_bench_data(ray_cluster: None, tmp_path: Path) -> None:
    uri = write_synthetic(tmp_path / "data")
    config = synthetic_config("overridden", tmp_path / "run", "data.decode_processes=1")
    result = bench_data(uri, config, seconds=2)
    assert result.stream.seconds >= 2
    rates = [rate.images_per_second for rate in (result.stream, result.bare, result.loader)]
    assert min(rates) > 0
    parts = result.stream.cpu_microseconds
    assert {"decoders", "workers of Ray", "coordinator of the split", "consumer"} <= parts.keys()
    assert parts["decoders"] > 0 and parts["workers of Ray"] > 0
    assert result.cpu_over_bare == pytest.approx(sum(parts.values()) - result.bare.cpu_microseconds)
    assert result.share_of_bare == pytest.approx(rates[0] / rates[1])
    assert result.data.startswith("synthetic@v1-") and len(result.config_hash) == 12
    assert "| bare loop" in bench_markdown(result)


def test_bench_train(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_torchrun = ray_train._run_torchrun

    def once(config: ExperimentConfig, kind: str, *rest: Any) -> list[float]:
        """torchrun's second start would show nothing new."""
        return run_torchrun(config, kind, *rest) if kind == "memory" else [float(tick) for tick in range(9)]

    monkeypatch.setattr(ray_train, "_run_torchrun", once)
    uri = write_synthetic(tmp_path / "data")
    config = synthetic_config("overridden", tmp_path / "run")
    result = bench_train(uri, config, workers=2, steps=3, rounds=1)
    for found in (result.memory, result.end_to_end):
        assert found.share == pytest.approx(found.foodseg / found.bare)
        assert (len(found.runs.foodseg), len(found.runs.bare)) == (1, 1)
    assert result.workers == 2 and result.config_hash == config_hash(config)
    assert "| end to end |" in bench_markdown(result)


def test_bench_train_refuses_a_batch_that_cannot_be_split(tmp_path: Path) -> None:
    uri = write_synthetic(tmp_path / "data", train=4, val=0, test=0)
    with pytest.raises(UserError, match=r"train.global_batch = 4 cannot be split evenly over 3 workers"):
        bench_train(uri, synthetic_config("overridden", tmp_path / "run"), workers=3)


def test_bench_serve(ray_cluster: None, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", seed=1)
    overrides = [f"segmenter.models.meals={checkpoint}", f"http.port={free_port()}"]
    result = bench_serve(None, overrides, seconds=1)
    figures = result.figures
    assert set(figures.concurrency) == {1, 8, 16}
    one = figures.concurrency[1]
    assert one.served.requests >= 3 and one.served.p50_ms <= one.served.p99_ms
    assert figures.milliseconds_over_bare == pytest.approx(one.served.p50_ms - one.bare.p50_ms, abs=50)
    assert result.threads == 1  # 0.3 logical CPUs
    assert result.images == 16 and figures.client_cpus > 0
    assert figures.prompt is None and figures.refine is None  # SAM is not configured
    page = bench_markdown(result)
    assert one.noop is not None and 0 < figures.milliseconds_of_noop == one.noop.p50_ms
    assert "ms over bare" in page and "Serve's mode: " in page
    with pytest.raises(UserError, match="needs a model"):
        bench_serve(None, seconds=1)
