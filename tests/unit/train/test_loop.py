"""The loop: resuming exactly, stopping, refusing NaN, keeping to its splits, keeping the right checkpoints."""

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from foodseg import storage
from foodseg.checkpoint.checkpoint import Checkpoint, load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.checkpoint.history import Validation, parse_history
from foodseg.checkpoint.manifest import read_manifest_file
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.checkpoint.run_pointers import prune_checkpoints, restore_pointers, write_pointers
from foodseg.config import ExperimentConfig, load
from foodseg.config.model import ModelConfig
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest, write_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.models.build import build_segmenter
from foodseg.predict.predictor import Predictor
from foodseg.train import loop
from foodseg.train import run as run_module
from foodseg.train.context import LocalContext
from foodseg.train.loop import Trainer, train
from foodseg.train.ray_trainer import run_training
from foodseg.train.results import TrainingResult
from foodseg.train.run import initial_model
from foodseg.train.validation import rank_units, validate, validation_counts, validation_units
from tests.support.compare import assert_close, close
from tests.support.gloo_rank import prepared
from tests.support.s3_proxy import S3Proxy
from tests.support.synthetic_set import synthetic_config, write_synthetic

pytestmark = pytest.mark.usefixtures("one_thread")


def go(config: ExperimentConfig, stop_after: int | None = None, resume: bool = False) -> TrainingResult:
    """Trains; as if a signal came in during update number `stop_after`."""
    run, context = prepared(config, resume)
    if stop_after is not None:
        answers = iter(range(1, stop_after + 1))
        context.stop_requested = lambda: next(answers) == stop_after
    return train(run.config, run.manifest, run.total_steps, context)


def newest(run: Path) -> Checkpoint:
    uri = newest_checkpoint(str(run))
    assert uri is not None
    return load_checkpoint(uri, with_trainer=True)


def assert_same(found, expected, where: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert found == expected, where


@pytest.mark.parametrize(
    "settings",
    [
        ["augment.class_aware=0.5", "optim.clip_norm=1", "loss.dice=0.5"],
        # the plain memory format must outlive a validation of the student itself
        ["train.channels_last=false", "eval.weights=student", "train.ema_horizon=0", "optim.schedule=poly"],
        ["train.micro_batch=2", "optim.schedule=cosine", "train.batch_norm=frozen", "data.repeat_threshold=0.5"],
    ],
    ids=["default", "plain", "accumulated"],
)
def test_resume_equals_the_undisturbed_run(data, tmp_path, settings):
    settings = ["train.steps=6", "model.dropout=0.2", "train.validate_every=3", *settings]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert go(synthetic_config(data, whole, *settings)).step == 6
    stopped = go(synthetic_config(data, parts, *settings), stop_after=4)
    assert stopped == TrainingResult(4, True, newest(parts).history[-1].miou, str(parts))
    assert newest(parts).step == 4
    assert go(synthetic_config(data, parts, *settings), resume=True).stopped is False
    one, other = newest(parts), newest(whole)
    for name in ("step", "student", "teacher", "trainer", "history"):
        assert_same(getattr(one, name), getattr(other, name), name)
    assert [each.step for each in one.history] == [3, 6]


def test_a_finished_run_resumes_to_its_end_at_once(data, tmp_path, caplog):
    config = synthetic_config(data, tmp_path / "r", "train.steps=2")
    caplog.set_level("INFO", logger="foodseg")
    first = go(config)
    begun = "training on 12 images: updates 1 to 2, of 4 images each, on CPU"
    assert caplog.messages.count(begun) == 1
    assert go(config, resume=True) == first
    assert [message for message in caplog.messages if message.startswith("training on")] == [begun]


def test_a_torn_checkpoint_costs_its_steps_only(data, tmp_path):
    settings = ["train.steps=6", "train.checkpoint_every=2"]
    go(synthetic_config(data, tmp_path / "whole", *settings))
    go(synthetic_config(data, tmp_path / "torn", *settings), stop_after=4)
    Path(checkpoint_uri(str(tmp_path / "torn"), 4), "model.safetensors").write_bytes(b"torn")
    go(synthetic_config(data, tmp_path / "torn", *settings), resume=True)
    assert_same(newest(tmp_path / "torn").student, newest(tmp_path / "whole").student)


def test_other_data_under_the_same_uri_is_refused(tmp_path):
    uri = write_synthetic(tmp_path / "d")
    config = synthetic_config(uri, tmp_path / "r", "train.steps=4")
    go(config, stop_after=2)
    write_synthetic(tmp_path / "d", train=10)
    with pytest.raises(UserError, match=r"was trained on synthetic@v1-\w+, but data.uri now holds synthetic@v1-\w+"):
        go(config, resume=True)


def test_several_data_sets_train_validate_and_resume_as_one(data, tmp_path):
    uri = write_synthetic(tmp_path / "d", train=4, val=3, test=1)
    write_manifest(uri, read_manifest(uri).model_copy(update={"annotated": {"synthetic": (0, 1, 2)}}))
    several = f"data.uris=[{{uri: {data}}}, {{uri: {uri}, weight: 2.5}}]"
    settings = [several, "train.steps=6", "train.validate_every=3", "loss.dice=0.3"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    go(synthetic_config("", whole, *settings))
    go(synthetic_config("", parts, *settings), stop_after=4)
    go(synthetic_config("", parts, *settings), resume=True)
    one, other = newest(parts), newest(whole)
    for name in ("step", "student", "trainer", "history", "data"):
        assert_same(getattr(one, name), getattr(other, name), name)
    assert one.data == " + ".join(read_manifest(u).identity for u in (data, uri))
    go(synthetic_config("", tmp_path / "r", *settings), stop_after=2)
    write_synthetic(tmp_path / "d", train=5, val=3, test=1)
    with pytest.raises(
        UserError, match=r"was trained on synthetic@v1-\w+ \+ synthetic@v1-\w+, but data.uris now hold synthetic@"
    ):
        go(synthetic_config("", tmp_path / "r", *settings), resume=True)


def test_sigterm_ends_with_a_checkpoint(data, tmp_path):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    run, local = prepared(synthetic_config(data, tmp_path / "r", "train.steps=1000"))
    with local as context:
        trainer = Trainer(run.config, run.manifest, run.total_steps, context)
        trainer.optimizer.register_step_post_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM) and None)
        assert trainer.run() == TrainingResult(1, True, None, run.config.run.uri)
        assert newest(tmp_path / "r").step == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} == before


@pytest.mark.parametrize("settings", [["train.log_every=1"], ["train.log_every=100", "train.checkpoint_every=1"]])
def test_nan_is_refused_before_it_is_saved(data, tmp_path, settings):
    run, context = prepared(synthetic_config(data, tmp_path / "r", *settings))
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    with torch.no_grad():
        trainer.student.classifier.weight[0, 0] = float("nan")
    with pytest.raises(
        UserError, match=r"the loss cross_entropy is nan at step 1: lower optim.lr \(now 0.001\)"
    ) as error:
        trainer.run()
    assert error.value.exit_code == 2
    assert newest_checkpoint(str(tmp_path / "r")) is None


def test_training_never_opens_test(data, tmp_path, monkeypatch):
    opened = []
    plain = storage.open_input
    monkeypatch.setattr(storage, "open_input", lambda uri: (opened.append(uri), plain(uri))[1])
    go(synthetic_config(data, tmp_path / "r", "train.steps=3", "train.validate_every=1"))
    splits = {Path(uri).parent.name for uri in opened}
    assert splits == {"train", "val"}


def test_log_says_what_was_consumed_and_leaves_out_validation(data, tmp_path, monkeypatch):
    clock = {"now": 0.0}
    meter = loop._Meter
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(loop, "_Meter", lambda: meter(started=clock["now"]))
    update, validate = Trainer._update, Trainer._validate
    tick = lambda self, *a: (clock.update(now=clock["now"] + 1), update(self, *a))[1]  # noqa: E731
    wait = lambda self, *a: (clock.update(now=clock["now"] + 100), validate(self, *a))[1]  # noqa: E731
    monkeypatch.setattr(Trainer, "_update", tick)
    monkeypatch.setattr(Trainer, "_validate", wait)
    go(synthetic_config(data, tmp_path / "r", "train.steps=6", "train.log_every=4", "train.validate_every=2"))
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    progress = [line for line in lines if "positions" in line]
    assert [(line["step"], line["positions"]) for line in progress] == [(4, [0, 16]), (6, [16, 24])]
    # 4 images a second, although 100 seconds of validation lie between
    assert [line["images_per_second"] for line in progress] == close([4, 4])
    scored = [line for line in lines if "val/miou" in line]
    assert [line["step"] for line in scored] == [2, 4, 6]
    assert all(line["val/miou"] == line["val/miou_ema"] and "val/miou_student" in line for line in scored)


def test_validation_counts_the_same_on_1_2_3_ranks(data, tmp_path):
    run, context = prepared(synthetic_config(data, tmp_path / "r"))
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    predictor = Predictor(trainer.student, run.config.eval, context.device)
    reader = RowReader(run.config.data.uri, run.manifest, ["train", "val"])

    def counted(rank: int, world_size: int):
        units = rank_units(validation_units(reader, None), rank, world_size)
        found = validation_counts({"student": predictor}, reader, run.manifest, units)["student"]
        return found.matrix, found.nll, found.pixels

    whole = counted(0, 1)
    pixels = [run.manifest.counts[split].class_pixels for split in ("train", "val")]
    assert whole[0].sum(1).tolist() == [a + b for a, b in zip(*pixels, strict=True)]
    for world_size in (2, 3):
        shares = [counted(rank, world_size) for rank in range(world_size)]
        for parts, expected in zip(zip(*shares, strict=True), whole, strict=True):
            assert (sum(parts) == expected).all()


def test_the_temperature_is_of_the_saved_weights(data, tmp_path):
    """Fitted at each validation; a checkpoint that was not validated has none."""
    every = ("train.steps=3", "train.validate_every=2", "train.checkpoint_every=1", "train.keep_checkpoints=9")
    go(synthetic_config(data, tmp_path / "r", *every))
    kept = {step: load_checkpoint(checkpoint_uri(str(tmp_path / "r"), step)) for step in (1, 2, 3)}
    assert kept[1].calibration is None
    run, context = prepared(synthetic_config(data, tmp_path / "other"))
    reader = RowReader(run.config.data.uri, run.manifest, ["val"])
    for step in (2, 3):
        fitted = kept[step].calibration
        assert (fitted.step, fitted.split) == (step, "val")
        assert fitted.eval == run.config.eval.model_dump(mode="json") and fitted.eval["weights"] == "ema"
        assert 0.25 <= fitted.temperature <= 4 and fitted.nll_after <= fitted.nll_before
        labelled = sum(min(4096, row) for row in _labelled_pixels(reader))
        assert fitted.pixels == labelled
        model = load_model(kept[step], "ema")
        again = validate({"ema": model}, reader, run.manifest, run.config, context, step)["ema"][1]
        assert again == fitted


def _labelled_pixels(reader: RowReader) -> list[int]:
    masks = reader.column("mask").to_pylist()
    return [int((decode_mask(mask) != SYNTHETIC_CLASSES.ignore_id).sum()) for mask in masks if mask is not None]


def test_pointers_and_pruning(tmp_path):
    uri = str(tmp_path)
    history: list[Validation] = []
    kept = {}
    for step, miou in [(1, 0.2), (2, 0.5), (3, None), (4, 0.3), (5, 0.5), (6, 0.1), (7, None), (8, 0.2)]:
        storage.write_text(storage.join(checkpoint_uri(uri, step), "manifest.json"), "{}")
        if miou is not None:
            history.append(Validation(step, miou, aacc=0.5, macc=0.5, miou_student=0.1))
        write_pointers(uri, step, history)
        prune_checkpoints(uri, step, keep=2)
        kept[step] = [int(name[5:]) for name in sorted(storage.list_names(storage.join(uri, "checkpoints")))]
        best = json.loads((tmp_path / "best.json").read_text())
        last = json.loads((tmp_path / "last.json").read_text())
        assert last["step"] == step and last.get("miou") == miou
        assert best["miou"] == max(each.miou for each in history)
        assert parse_history((tmp_path / "history.jsonl").read_text()) == history
    # 5 is as good as 2 and newer
    assert kept == {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [4, 5], 6: [5, 6], 7: [5, 6, 7], 8: [5, 7, 8]}
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "checkpoints/step-00000005"


def test_later_checkpoints_are_of_an_abandoned_part_and_go_first(tmp_path, monkeypatch):
    """20 and 30 are incomplete, so the run resumed from 10, and has now written 15."""
    uri = str(tmp_path)
    for step in (5, 10, 15, 20, 30):
        storage.write_text(storage.join(checkpoint_uri(uri, step), "manifest.json"), "{}")
    removed, delete = [], storage.delete
    monkeypatch.setattr(storage, "delete", lambda where: (removed.append(int(where[-8:])), delete(where)))
    prune_checkpoints(uri, 15, keep=2)
    assert removed == [20, 30, 5]
    assert storage.list_names(f"{uri}/checkpoints") == ["step-00000010", "step-00000015"]


@pytest.mark.parametrize(
    ("kept", "written", "expected"),
    [
        ((2, 4), {"step": 2}, 4),  # killed before the pointers of 4, the best
        ((2, 4), {"step": 6}, 4),  # 6 was better, but is torn
        ((2,), {"step": 6}, 2),  # so was 4
        ((), {"step": 6}, None),
    ],
)
def test_pointers_of_a_resumed_run(tmp_path, kept, written, expected):
    uri = str(tmp_path)
    for step in kept:
        storage.write_text(storage.join(checkpoint_uri(uri, step), "manifest.json"), "{}")
    storage.write_json(f"{uri}/best.json", written)
    history = [Validation(step, step / 20, aacc=0.5, macc=0.5, miou_student=0.1) for step in (2, 4)]
    restore_pointers(uri, 4, history[: max(1, len(kept))])
    assert json.loads((tmp_path / "last.json").read_text())["step"] == 4
    if expected is None:
        assert not (tmp_path / "best.json").exists()
    else:
        best = {"step": expected, "checkpoint": f"checkpoints/step-0000000{expected}", "miou": expected / 20}
        assert json.loads((tmp_path / "best.json").read_text()) == best


def test_killed_between_a_checkpoint_and_its_pointers(data, tmp_path, monkeypatch):
    settings = ["train.steps=4", "train.validate_every=2"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_pointers", lambda *a: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            go(synthetic_config(data, tmp_path / "r", *settings))
    assert newest(tmp_path / "r").step == 2 and not (tmp_path / "r" / "best.json").exists()
    run, context = prepared(synthetic_config(data, tmp_path / "r", *settings), resume=True)
    Trainer(run.config, run.manifest, run.total_steps, context)
    for name in ("best.json", "last.json"):
        assert json.loads((tmp_path / "r" / name).read_text())["step"] == 2


def test_synchronised_batch_norm_keeps_the_activations():
    """Those that timm keeps inside its BatchNorm layers, as in every block of an EfficientNet."""
    torch.manual_seed(0)
    model = build_segmenter(ModelConfig(weights="none", pyramid_channels=16, decoder_channels=16), 5).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image).logits
        converted = loop.convert_sync_batchnorm(model)
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
        assert_close(converted(image).logits, expected)


def test_more_checkpoints_can_be_kept(data, tmp_path):
    go(synthetic_config(data, tmp_path / "r", "train.steps=5", "train.checkpoint_every=1", "train.keep_checkpoints=3"))
    names = sorted(path.name for path in (tmp_path / "r" / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004", "step-00000005"]


def test_a_local_context_is_one_process(data, tmp_path):
    _, context = prepared(synthetic_config(data, tmp_path / "r"))
    assert isinstance(context, LocalContext) and (context.rank, context.world_size) == (0, 1)
    module, tensor = torch.nn.Linear(1, 1), torch.ones(2)
    assert context.wrap(module) is module and context.all_reduce(tensor) is tensor and context.broadcast("x") == "x"
    assert context.restore() is None and not context.stop_requested()
    found = [p for batch in context.batches(1, 4) for p in batch.position.tolist()]
    assert found == list(range(4, 16))


def test_the_wrapped_module_is_compiled(data, tmp_path, monkeypatch):
    """Compiled inside DDP, a model would have its gradients reduced only after the whole backward pass."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    run, context = prepared(synthetic_config(data, tmp_path / "r", "train.compile=true"))
    context.wrap = nn.Sequential
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    assert compiled == [trainer.wrapped] and trainer.wrapped[0] is trainer.student


# --- what a start costs ---


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each model that is built for a training: with its published weights or not."""
    calls: list[bool] = []
    build = run_module.build_model

    def counted(*arguments, pretrained: bool, **settings):
        calls.append(pretrained)
        return build(*arguments, pretrained=pretrained, **settings)

    monkeypatch.setattr(run_module, "build_model", counted)
    return calls


def test_a_start_builds_the_model_once_and_parses_nothing_again(data, tmp_path, built, monkeypatch):
    config, parsed = synthetic_config(data, tmp_path / "r", "train.steps=1"), []
    parse = load.parse_config
    monkeypatch.setattr(load, "parse_config", lambda *a: (parsed.append(a), parse(*a))[1])
    assert run_training(config).step == 1
    assert built == [True] and not parsed


def test_the_model_that_was_checked_is_the_one_that_a_worker_would_build(data, tmp_path):
    run, _ = prepared(synthetic_config(data, tmp_path / "r", "model.dropout=0.2"))
    assert run.model is not None
    assert_same(
        initial_model(run.config, run.manifest.class_table, None, starts=True).state_dict(), run.model.state_dict()
    )


def test_a_resume_reads_a_checkpoint_once(data, bucket, moto_endpoint, tmp_path, built, monkeypatch):
    """In one process; `tests/integration/test_ray_trainer.py` has two workers."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with S3Proxy(moto_endpoint) as proxy:
        uri = f"{bucket}/run{proxy.query}"
        config = synthetic_config(data, uri, "train.steps=4", "train.keep_checkpoints=9")
        go(config, stop_after=2)
        proxy.read.clear()
        built.clear()
        assert run_training(config, resume=True).step == 4
    folder = checkpoint_uri(f"{bucket}/run", 2)
    read = proxy.below(folder.removeprefix("s3://"))
    del read["manifest.json"]
    assert read == {name: entry.size for name, entry in read_manifest_file(folder).files.items() if entry.size}
    assert built == [False]
