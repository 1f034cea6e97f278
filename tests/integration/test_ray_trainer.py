"""Training under Ray Train: two workers learn what one process learns."""

import json
import os
import time

import psutil
import pytest
import torch

from foodseg import storage
from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.checkpoint.manifest import read_manifest_file
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.data.shards import read_manifest, write_manifest
from foodseg.errors import UserError
from foodseg.train.loop import train
from foodseg.train.ray_trainer import run_training
from foodseg.train.ray_worker import RayContext
from tests.conftest import BUCKET
from tests.support.gloo_rank import prepared
from tests.support.s3_proxy import S3Proxy
from tests.support.synthetic_set import synthetic_config, write_synthetic, write_table
from tests.support.tiny_checkpoints import write_checkpoint

SETTINGS = [
    "train.steps=8",
    "train.validate_every=8",
    "train.checkpoint_every=8",
    "train.log_every=1",
    "train.batch_norm=frozen",
    "train.global_batch=4",
    "model.dropout=0",
]


def test_two_workers_learn_what_one_process_learns(ray_cluster, s3, tmp_path):
    """From two data sets, one with partial labels, and a teacher.

    The run of the workers is in a bucket, with Ray's own files and the teacher's labels.
    """
    data, other = write_synthetic(tmp_path / "data"), write_synthetic(tmp_path / "other", train=5, val=2, test=1)
    write_manifest(other, read_manifest(other).model_copy(update={"annotated": {"synthetic": (0, 1, 2, 3)}}))
    teacher = write_checkpoint(tmp_path / "teacher", 1)
    settings = [
        *SETTINGS, f"data.uris=[{{uri: {data}}}, {{uri: {other}, weight: 1.5}}]", f"distill.teacher={teacher}",
        "loss.soft_labels=0.5", "loss.class_correlation=0.2", "optim.warmup=0",
    ]  # fmt: skip
    alone = run_training(synthetic_config(data, tmp_path / "alone", *settings, "scaling.num_workers=0"))
    bucket = f"s3://{BUCKET}/{tmp_path.name}-{os.urandom(4).hex()}"
    with S3Proxy(s3.endpoint) as proxy:  # an address that only the URI names
        shared = run_training(synthetic_config(data, f"{bucket}{proxy.query}", *settings, "scaling.num_workers=2"))
    of_ray = [storage.join(bucket, "ray", path) for path in storage.list_tree(storage.join(bucket, "ray"))]
    assert of_ray and all(proxy.requests["PUT", path.removeprefix("s3://")] for path in of_ray)

    a, b = (load_checkpoint(resolve_checkpoint(run)) for run in (alone.run, bucket))
    assert a.step == b.step == 8
    # the same sums in another order: where a gradient is next to 0, Adam makes a whole step of a rounding error
    apart = torch.cat([(b.student[name] - weights).abs().flatten() for name, weights in a.student.items()])
    assert (apart > 1e-3).float().mean() < 0.01
    logs = [storage.read_text(storage.join(run, "log.jsonl")) for run in (str(tmp_path / "alone"), bucket)]
    lines = [[json.loads(line) for line in log.splitlines()] for log in logs]
    for term in ("cross_entropy", "soft_labels", "class_correlation"):
        losses = [[line[f"loss/{term}"] for line in part if f"loss/{term}" in line] for part in lines]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] != losses[0][0]
    assert [line["positions"] for line in lines[1] if "positions" in line] == [[s * 4, s * 4 + 4] for s in range(8)]
    assert shared.miou == pytest.approx(alone.miou, abs=0.02)


def test_it_is_refused_before_workers_start(ray_cluster, tmp_path):
    settings = ["train.global_batch=8", "scaling.num_workers=8", "scaling.resources_per_worker={CPU: 1}",
                "data.decode_processes=0"]  # fmt: skip
    config = synthetic_config(write_synthetic(tmp_path / "data"), tmp_path / "run", *settings)
    with pytest.raises(UserError, match=r"^8 workers with 1 CPU each would leave 0 of the cluster.s CPUs"):
        run_training(config)


def refused_on_rank_0(config, manifest):
    context = RayContext(config, manifest)
    if context.rank == 0:
        raise UserError("rank 0 finds a mistake")
    return context


@pytest.mark.chaos
def test_a_mistake_that_one_rank_finds_ends_all(ray_cluster, tmp_path):
    """Rank 1 waits for rank 0 in a broadcast, which knows no end."""
    config = synthetic_config(write_synthetic(tmp_path / "data"), tmp_path / "run", "scaling.num_workers=2")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^rank 0 finds a mistake$"):
        run_training(config, build_context=refused_on_rank_0)
    assert time.monotonic() - started < 200  # and not the half hour that gloo would wait


def broken_on_rank_1(config, manifest):
    context = RayContext(config, manifest)
    if context.rank == 1:
        raise ZeroDivisionError("a mistake of ours")
    return context


@pytest.mark.chaos
def test_a_mistake_of_ours_is_no_reason_to_try_again(ray_cluster, tmp_path, caplog):
    settings = ["scaling.num_workers=2", "train.max_failures=0"]
    config = synthetic_config(write_synthetic(tmp_path / "data"), tmp_path / "run", *settings)
    with pytest.raises(RuntimeError, match=r"^training failed: .*a mistake of ours"):
        run_training(config, build_context=broken_on_rank_1)
    assert "in broken_on_rank_1" in caplog.text


@pytest.mark.chaos
def test_two_workers_that_resume_read_a_checkpoint_once(ray_cluster, s3, tmp_path):
    """Counted at the S3 server: the driver, Ray's controller and both workers share a copy, as they share a machine."""
    data, bucket = write_synthetic(tmp_path / "data"), f"s3://{BUCKET}/{tmp_path.name}-{os.urandom(4).hex()}"
    with S3Proxy(s3.endpoint) as proxy:
        uri = f"{bucket}{proxy.query}"
        settings = [*SETTINGS, "train.checkpoint_every=4", "train.keep_checkpoints=9"]
        run, alone = prepared(synthetic_config(data, uri, *settings))
        answers = iter(range(1, 5))
        alone.stop_requested = lambda: next(answers) == 4  # type: ignore[method-assign]
        assert train(run.config, run.manifest, run.total_steps, alone).step == 4
        proxy.read.clear()
        config = synthetic_config(data, uri, *settings, "scaling.num_workers=2")
        assert run_training(config, resume=True).step == 8
        folder = checkpoint_uri(bucket, 4)
        read = proxy.below(folder.removeprefix("s3://"))
    assert read.pop("manifest.json") > 0
    assert read == {name: entry.size for name, entry in read_manifest_file(folder).files.items() if entry.size}


def test_two_workers_have_the_sums_of_one_process(ray_cluster, tmp_path):
    """An open-vocabulary model has nothing for DDP to average."""
    data, table = write_synthetic(tmp_path / "data"), write_table(tmp_path / "names.safetensors")
    settings = [
        f"model={{kind: open_vocabulary, backbone: test_vit, weights: none, text: {{kind: table, table: {table}}}}}",
        "train.ema_horizon=0", "eval.weights=student", "augment.crop=96", "train.steps=3",
    ]  # fmt: skip
    alone = run_training(synthetic_config(data, tmp_path / "alone", *settings, "scaling.num_workers=0"))
    shared = run_training(synthetic_config(data, tmp_path / "shared", *settings, "scaling.num_workers=2"))
    a, b = (load_checkpoint(resolve_checkpoint(result.run)).student for result in (alone, shared))
    assert a.keys() == b.keys() and a["counts"].sum() > 10
    for name in ("sums", "counts", "food", "background"):
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-4)
    assert shared.miou == pytest.approx(alone.miou, abs=0.02)


class LosesItsDecoder(RayContext):
    """Kills the processes that decode for it at the third update of the first attempt, as a machine out of memory."""

    def batches(self, start_step, total_steps):
        for number, batch in enumerate(super().batches(start_step, total_steps)):
            if start_step == 0 and number == 2:
                decoders = [
                    each for each in psutil.Process().children() if "decode_process" in " ".join(each.cmdline())
                ]
                assert decoders
                for each in decoders:
                    each.kill()
            yield batch


def test_a_killed_decoder_costs_what_was_done_since_the_last_checkpoint(ray_cluster, tmp_path):
    settings = [*SETTINGS, "train.steps=40", "train.checkpoint_every=1", "train.validate_every=40"]
    config = synthetic_config(write_synthetic(tmp_path / "data"), tmp_path / "run", *settings)
    assert run_training(config, build_context=LosesItsDecoder).step == 40
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "positions" in line]
    # the ring had decoded a few updates ahead; every later one was done once, in order
    assert steps[-1] == 40 and sorted(set(steps)) == list(range(1, 41))
