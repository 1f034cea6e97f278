"""One update on 1 x 8, 4 + 4 accumulated, 2 x 4 and 2 x (2 + 2) images: the same gradients, or the count is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import parse_config
from foodseg.data.reader import RowReader
from foodseg.train.context import LocalContext
from foodseg.train.loop import Trainer
from foodseg.train.validation import validate
from tests.support.gloo_rank import first_gradients, prepared
from tests.support.synthetic_set import synthetic_config, write_table
from tests.support.tiny_checkpoints import write_checkpoint, write_clip

ROOT = Path(__file__).parents[3]
LOSSES = {
    "ce": ["loss.dice=0"],
    "ce and dice": ["loss.dice=0.7"],
    "dice": ["loss.cross_entropy=0", "loss.dice=1"],
    "lovasz": ["loss.cross_entropy=0", "loss.lovasz=1"],
    # the teacher's terms far above the others, and views that differ more than by default: else nobody would see them
    "distillation": [
        "loss.cross_entropy=1e-3", "loss.distill=20", "distill.ramp=0", "optim.warmup=0",
        "augment.contrast=[0.2, 0.6]", "augment.brightness=0.3", "augment.scale=[0.4, 0.9]",
    ],
    "features": [
        "loss.cross_entropy=1e-3", "loss.features=5", "augment.contrast=[0.2, 0.6]", "augment.scale=[0.4, 0.9]",
    ],
    "score_map": [
        "loss.cross_entropy=1e-2", "loss.distill=20", "distill.ramp=0", "optim.warmup=0", "augment.scale=[0.4, 0.9]",
        "loss.score_map=1", "model.fusion=score_map", "model.text={kind: table, table: TABLE}",
    ],
    "film": [
        "loss.cross_entropy=1e-2", "loss.features=5", "augment.scale=[0.4, 0.9]",
        "distill.conditioning_mix=[0.2, 0.2, 0.2, 0.4]",
        "loss.ingredients=1", "model.ingredient_head=true", "model.fusion=film",
        "model.text={kind: table, table: TABLE}",
    ],
    "cross_attention": [
        "loss.distill=1", "distill.ramp=0", "optim.warmup=0", "distill.conditioning_mix=[0.2, 0.2, 0.2, 0.4]",
        "model.fusion=cross_attention", "model.text={kind: table, table: TABLE}",
    ],
    "stages": [
        "loss.cross_entropy=1e-3", "loss.stages=5", "loss.deeper=5", "distill.stages=[8, 16, 32]",
        "augment.contrast=[0.2, 0.6]", "augment.scale=[0.4, 0.9]",
    ],
    "soft labels": [
        "distill.teacher=TEACHER", "loss.soft_labels=0.9", "loss.pixel_correlation=20", "loss.class_correlation=20",
        "optim.warmup=0", "augment.scale=[0.4, 0.9]",
    ],
    "training heads": [
        "loss.cross_entropy=1e-2", "model.stage_heads=true", "loss.stage_labels=0.7", "loss.stage_distill=5",
        "model.privileged_head=true", "loss.privileged=0.5", "model.text={kind: table, table: TABLE}",
        "loss.label_smoothing=0.1", "augment.scale=[0.4, 0.9]",
    ],
    "vit": [
        "model.backbone=test_vit2", "model.vit.trained=full", "loss.distill=1", "distill.ramp=0", "optim.warmup=0",
    ],
    "realtime": [
        "model={kind: realtime, backbone: test_efficientnet, weights: none, decoder_channels: 16, dropout: 0, "
        "text: {kind: table, table: TABLE}}",
        "loss.cross_entropy=1e-2", "loss.pixel_text=1", "loss.image_text=1", "augment.scale=[0.3, 0.9]",
    ],
    # of the smaller ones too few are left for half of the images to have as many as the other
    "regions": [
        "model={kind: roi, backbone: test_byobnet, weights: none, dropout: 0}", "eval={weights: student}",
        "roi.hidden=16", "roi.least_share=0.12", "augment={crop: 32}",
    ],
    "hybrid": ["model.vit={backbone: test_vit, weights: none, trained: last}", "loss.features=1"],
    "diffusion": [
        "loss.cross_entropy=1e-3", "loss.attention=20", "loss.stages=1", "loss.ingredients=1",
        "augment.contrast=[0.2, 0.6]", "augment.scale=[0.4, 0.9]",
        "distill.conditioning_mix=[0.2, 0.2, 0.2, 0.4]", "model.kind=diffusion", "model.backbone=tiny",
        # at stride 64 a crop is one grid cell, whose GroupNorm magnifies a rounding error
        "model.strides=[8, 16, 32]", "model.fusion=cross_attention", "model.text={kind: table, table: TABLE}",
        "model.ingredient_head=true",
    ],
}  # fmt: skip
LOSSES["diffusion, LoRA, checkpointed"] = [
    *LOSSES["diffusion"], "model.diffusion.unet=lora", "model.diffusion.gradient_checkpointing=true",
]  # fmt: skip
AT_ONCE = [name for name in LOSSES if name != "diffusion, LoRA, checkpointed"]  # on two ranks that one accumulates, too
TEACHING = {
    "live distillation": ["loss.distill=1", "distill.ramp=0", "optim.warmup=0.67"],  # which begins in the last update
    "live features": ["loss.features=1"],
    # one update of stage one, two of stage two: DDP refuses a parameter without a gradient
    "live prompts": [
        "model={kind: realtime, backbone: test_efficientnet, weights: none, decoder_channels: 16, "
        "text: {kind: open_clip, model: CLIP}, realtime: {context_tokens: 4}}",
        "loss.pixel_text=1",
        "loss.features=1",
        "optim.stage_two.begins=0.34",
    ],
}
ACCUMULATED = {"accumulated": "ce and dice", "diffusion accumulated": "diffusion, LoRA, checkpointed"}
LIVE = ["train.steps=3", "train.batch_norm=live", "data.val_split=null"]
SAME = ["train.global_batch=8", "train.steps=1", "train.batch_norm=frozen", "model.dropout=0", "data.val_split=null"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def losses(tmp_path_factory) -> dict[str, list[str]]:
    """LOSSES with a table of embeddings instead of TABLE, and a checkpoint instead of TEACHER."""
    table = write_table(tmp_path_factory.mktemp("table") / "names.safetensors")
    teacher = write_checkpoint(tmp_path_factory.mktemp("teacher") / "model", 1)
    return {
        name: [word.replace("TABLE", table).replace("TEACHER", teacher) for word in loss]
        for name, loss in LOSSES.items()
    }


@pytest.fixture(scope="module")
def whole(data, losses, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """Gradients of one process that takes the 8 images at once."""
    found = {}
    for name, loss in losses.items():
        found[name] = gradients(synthetic_config(data, tmp_path_factory.mktemp("run") / "r", *SAME, *loss))
    return found


def gradients(config) -> dict[str, torch.Tensor]:
    run, context = prepared(config)
    return first_gradients(Trainer(run.config, run.manifest, run.total_steps, context), to_the_end=False)


def assert_close(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            found[name], gradient, rtol=0, atol=1e-4 * scale + 1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


# one image at a time is the same code as four, and the diffusion models are slow
@pytest.mark.parametrize(
    ("name", "micro_batch"),
    [(name, 4) for name in LOSSES] + [(name, 1) for name in LOSSES if not name.startswith("diffusion")],
)
def test_accumulated(data, losses, whole, tmp_path, name, micro_batch):
    config = synthetic_config(data, tmp_path / "r", *SAME, *losses[name], f"train.micro_batch={micro_batch}")
    assert_close(gradients(config), whole[name])


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("ce", "cross_entropy"),
        ("lovasz", "lovasz"),
        ("distillation", "distill"),
        ("score_map", "score_map"),
        ("film", "ingredients"),
        ("realtime", "pixel_text"),
        ("soft labels", "soft_labels"),
        ("soft labels", "class_correlation"),
        ("regions", "cross_entropy"),
    ],
)
def test_the_halves_differ_so_that_a_wrong_count_would_show(data, losses, tmp_path, name, term):
    """Else the mean of means would be the mean, and the tests above would prove nothing."""
    run, context = prepared(synthetic_config(data, tmp_path / "r", *SAME, *losses[name], "train.micro_batch=4"))
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    halves = [int(trainer.task.counts(batch, 0)[term]) for batch in context.batches(0, 1)]
    assert len(halves) == 2
    assert abs(halves[0] - halves[1]) > 0.05 * sum(halves)


@pytest.mark.parametrize(
    ("name", "terms", "part"),
    [
        ("distillation", ["distill"], ("backbone.", "decoder.")),
        ("features", ["features"], ("backbone.", "decoder.")),
        ("soft labels", ["pixel_correlation", "class_correlation"], ("backbone.", "decoder.")),
        ("stages", ["stages", "deeper"], "backbone."),  # what lies behind the stages learns nothing of them
        ("diffusion", ["attention"], ("backbone.unet.down_blocks.", "fusion.")),
    ],
)
def test_the_teacher_moves_the_gradients(data, losses, whole, tmp_path, name, terms, part):
    """Those of the parameters that begin with `part`."""
    weights = [f"loss.{term}=0" for term in terms]
    settings = [word for word in losses[name] if not word.startswith("distill.stages")]
    without = gradients(synthetic_config(data, tmp_path / "r", *SAME, *settings, *weights))
    size = {n: float(g.norm()) for n, g in whole[name].items() if n.startswith(part)}
    shift = {n: float((without[n] - whole[name][n]).norm()) for n in size}
    assert sum(shift[n] > 0.5 * size[n] for n in size) > 0.8 * len(size)


@pytest.fixture(scope="module")
def two_ranks(data, losses, tmp_path_factory):
    """What two processes under DDP computed for each configuration."""
    folder = tmp_path_factory.mktemp("ranks")
    clip = write_clip(folder / "clip")
    trees = {
        **{name: synthetic_config(data, folder / name, *SAME, *losses[name]) for name in AT_ONCE},
        **{
            name: synthetic_config(data, folder / name.replace(" ", "-"), *SAME, *losses[of], "train.micro_batch=2")
            for name, of in ACCUMULATED.items()
        },
        "live": synthetic_config(data, folder / "live", "train.steps=3", "train.log_every=2"),
        "live without validation": synthetic_config(data, folder / "live-without-validation", *LIVE),
        **{
            name: synthetic_config(
                data, folder / name.replace(" ", "-"), *LIVE, *(word.replace("CLIP", clip) for word in loss)
            )
            for name, loss in TEACHING.items()
        },
    }
    (folder / "configs.json").write_text(json.dumps([tree.model_dump(mode="json") for tree in trees.values()]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.gloo_rank", str(rank), "2", str(folder)], env=environment, cwd=ROOT
        )
        for rank in range(2)
    ]
    try:
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    results = [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]
    return folder, {name: [result[i] for result in results] for i, name in enumerate(trees)}


@pytest.mark.parametrize("name", AT_ONCE)
def test_two_ranks(two_ranks, whole, name):
    for rank in two_ranks[1][name]:
        assert_close(rank["gradients"], whole[name])


@pytest.mark.parametrize(("name", "of"), ACCUMULATED.items())
def test_two_ranks_that_accumulate(two_ranks, whole, name, of):
    for rank in two_ranks[1][name]:
        assert_close(rank["gradients"], whole[of])


@pytest.mark.parametrize("name", TEACHING)
def test_two_ranks_learn_from_one_teacher(two_ranks, name):
    """Live BatchNorm has each rank count its own images; the teacher of all is that of rank 0's statistics."""
    one, two = (rank["buffers"]["teacher"] for rank in two_ranks[1][name])
    averages = [key for key in one if key.endswith(("running_mean", "running_var"))]
    assert averages and all(torch.equal(one[key], two[key]) for key in one)


def test_the_halves_have_other_statistics(two_ranks):
    """Else the test above would prove nothing."""
    one, two = (rank["buffers"]["student"] for rank in two_ranks[1]["live without validation"])
    assert not all(torch.equal(one[key], two[key]) for key in one)


def test_two_ranks_score_the_model_that_is_saved(two_ranks):
    """Each rank has BatchNorm statistics of its own images; the score is that of rank 0's, which are saved."""
    folder, results = two_ranks
    histories = [rank["history"] for rank in results["live"]]
    assert histories[0] == histories[1] and len(histories[0]) == 1
    checkpoint = load_checkpoint(newest_checkpoint(str(folder / "live")))
    run, context = prepared(
        parse_config({**checkpoint.config.model_dump(mode="json"), "run": {"uri": str(folder / "x")}})
    )
    assert isinstance(context, LocalContext)
    reader = RowReader(run.config.data.uri, run.manifest, ["val"])
    models = {"ema": load_model(checkpoint, "ema")}
    alone, calibration = validate(models, reader, run.manifest, run.config, context, checkpoint.step)["ema"]
    assert alone.miou == histories[0][0]["miou"]
    assert alone.aacc == histories[0][0]["aacc"]
    assert calibration == checkpoint.calibration
