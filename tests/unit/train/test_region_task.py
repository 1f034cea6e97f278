"""Learning regions: losses by hand, the teacher's views, the same gradients however the images are cut up, resumed."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model, load_region_network
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.data.batch import RegionBatch
from foodseg.data.roi_views import NO_REGION
from foodseg.errors import UserError
from foodseg.models.roi import RegionNetwork, RegionOutput
from foodseg.train.loop import Trainer
from foodseg.train.region_task import DISTILLED, TERM, RegionTask, exchanged_contexts, region_teacher
from foodseg.train.run import prepare_run
from tests.support.compare import assert_close
from tests.support.gloo_rank import first_gradients, prepared
from tests.support.synthetic_set import synthetic_config

pytestmark = pytest.mark.usefixtures("one_thread")
DEIT = "deit_tiny_distilled_patch16_224"
ROI = ("model={kind: roi, backbone: test_byobnet, weights: none, dropout: 0}", "eval={weights: student}",
       "roi.hidden=16", "augment={crop: 32}")  # fmt: skip


def config_of(data: str, run: Path, *settings: str) -> ExperimentConfig:
    return synthetic_config(data, run, *ROI, *settings)


def trained(config: ExperimentConfig, resume: bool = False) -> Trainer:
    run, context = prepared(config, resume)
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    trainer.run()
    return trainer


class Fixed(torch.nn.Module):
    """Gives fixed logits, and notes the views that it saw."""

    def __init__(self, logits: torch.Tensor, distilled: torch.Tensor | None = None) -> None:
        super().__init__()
        self.output, self.seen = RegionOutput(logits, distilled), []

    def forward(self, views: torch.Tensor) -> RegionOutput:
        self.seen.append(views)
        return self.output


def batch_of(labels: list[int], views: int = 2) -> RegionBatch:
    count = len(labels)
    drawn = torch.Generator().manual_seed(1)
    return RegionBatch(
        views=torch.randint(0, 256, (count, views, 3, 16, 16), dtype=torch.uint8, generator=drawn),
        label=torch.tensor(labels),
        seed=torch.arange(count),
        position=torch.arange(count),
        source=torch.tensor([0, 1] * (count // 2) + [0] * (count % 2)),
    )


def task_of(teacher: torch.nn.Module | None = None, **sections: object) -> RegionTask:
    settings = {"model": {"kind": "roi"}, "augment": {"crop": 16, "contrast": [1, 1], "brightness": 0}, **sections}
    task = RegionTask(ExperimentConfig.model_validate(settings), Fixed(torch.zeros(1)), teacher)  # type: ignore[arg-type]
    return task


def test_cross_entropy_counts_the_regions() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0, 1, 0], [5, 5, 5]])
    task, batch = task_of(), batch_of([0, 2, NO_REGION])
    terms = task.loss(Fixed(logits), batch, 0)
    expected = -logits.log_softmax(1)[0, 0] - logits.log_softmax(1)[1, 2]
    assert terms.keys() == {TERM}
    assert_close(terms[TERM], expected)
    assert task.counts(batch, 0)[TERM] == 2 and task.weights_at(0) == {TERM: 1.0}


def test_nothing_is_learned_from_a_batch_without_regions() -> None:
    task, batch = task_of(), batch_of([NO_REGION] * 2)
    assert task.loss(Fixed(torch.ones(2, 3)), batch, 0)[TERM] == 0 and task.counts(batch, 0)[TERM] == 0


def distilling(how: str, **distill: object) -> tuple[dict[str, torch.Tensor], RegionTask, Fixed, Fixed, torch.Tensor]:
    """Loss terms of two regions and one without, with a teacher that says class 1 and 0."""
    said = torch.tensor([[0.0, 3, 0], [4, 0, 0], [9, 0, 0]])
    student = Fixed(
        torch.tensor([[1.0, 0, 0], [0, 2, 0], [7, 0, 0]]), torch.tensor([[0.5, 0, 1], [0, 0, 1], [7, 0, 0]])
    )
    teacher = Fixed(said)
    alpha = {"alpha": 0.3} if how == "soft" else {}
    task = task_of(teacher, roi={"distill": how, **alpha}, distill={"teacher": ["t"], **distill})
    network = RegionNetwork.__new__(RegionNetwork)
    torch.nn.Module.__init__(network)
    network.distilled = True
    task.module = network
    return task.loss(student, batch_of([0, 2, NO_REGION]), 0), task, student, teacher, said


def test_hard_distillation_is_half_the_label_and_half_the_teachers_class() -> None:
    terms, task, student, _, _ = distilling("hard")
    own, distilled = student.output.logits.log_softmax(1), student.output.distilled
    assert distilled is not None
    token = distilled.log_softmax(1)
    assert_close(terms[TERM], -own[0, 0] - own[1, 2])
    assert_close(terms[DISTILLED], -token[0, 1] - token[1, 0])
    assert task.weights_at(0) == {TERM: 0.5, DISTILLED: 0.5}


def test_soft_distillation_is_t_squared_times_the_divergence() -> None:
    terms, task, student, _, said = distilling("soft", temperature=3.0)
    assert student.output.distilled is not None
    p, q = (said / 3).softmax(1), (student.output.distilled / 3).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1)
    assert_close(terms[DISTILLED], 9 * divergence[:2].sum())
    assert task.weights_at(0) == {TERM: pytest.approx(0.7), DISTILLED: pytest.approx(0.3)}


def test_the_teacher_sees_the_very_views_of_the_student() -> None:
    _, _, student, teacher, _ = distilling("hard")
    assert torch.equal(student.seen[0], teacher.seen[0])


def test_views_of_a_region_are_jittered_alike() -> None:
    task = task_of(augment={"crop": 16, "contrast": [0.5, 1.5], "brightness": 0.2})
    batch = batch_of([0, 1])
    same = dataclasses.replace(batch, views=batch.views[:, :1].expand(-1, 2, -1, -1, -1))
    views = task.views(same)
    assert torch.equal(views[:, 0], views[:, 1])
    assert not torch.allclose(views[:, 0], same.views[:, 0].float() / 255, atol=1e-3)
    assert views.min() >= 0 and views.max() <= 1


def test_contexts_are_exchanged_within_a_source() -> None:
    views = torch.arange(10, dtype=torch.uint8).view(5, 2, 1, 1, 1).expand(5, 2, 3, 4, 4)
    found = exchanged_contexts(views, torch.tensor([0, 1, 0, 2, 0]))
    assert found[:, 0, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert found[:, 1, 0, 0, 0].tolist() == [5, 3, 9, 7, 1]


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_gradients_do_not_depend_on_how_the_images_are_cut_up(data: str, tmp_path: Path, micro_batch: int) -> None:
    found = []
    for name, size in (("whole", 4), ("cut", micro_batch)):
        settings = ("train.steps=1", "train.batch_norm=frozen", f"train.micro_batch={size}")
        run, context = prepared(config_of(data, tmp_path / name, *settings))
        found.append(first_gradients(Trainer(run.config, run.manifest, 1, context), to_the_end=False))
    whole, cut = found
    assert whole.keys() == cut.keys() and len(whole) > 10
    for name, gradient in whole.items():
        assert_close(cut[name], gradient, name)


def test_a_run_is_saved_resumed_and_loaded(data: str, tmp_path: Path) -> None:
    settings = ("train.steps=4", "train.checkpoint_every=2", "train.validate_every=2")
    whole = trained(config_of(data, tmp_path / "whole", *settings))
    run, context = prepared(config_of(data, tmp_path / "killed", *settings))
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    asked = iter([False, False, True])
    context.stop_requested = lambda: next(asked)  # type: ignore[method-assign]
    assert trainer.run().stopped
    resumed = trained(config_of(data, tmp_path / "killed", *settings), resume=True)
    for name, value in whole.student.state_dict().items():
        assert_close(resumed.student.state_dict()[name], value, name)
    checkpoint = load_checkpoint(newest_checkpoint(str(tmp_path / "whole")) or "")
    assert checkpoint.history[-1].macro_f1 is not None and 0 <= checkpoint.history[-1].aacc <= 1
    loaded = load_region_network(checkpoint, "student")
    views = torch.rand(2, 2, 3, 32, 32)
    with torch.no_grad():
        assert_close(loaded(views).logits, whole.student.eval()(views).logits)
    with pytest.raises(UserError, match=r"this checkpoint is a region classifier \(model.kind = roi\)"):
        load_model(checkpoint, "student")


def test_distilled_from_a_checkpoint(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.models.test_roi import tiny_deit

    trained(config_of(data, tmp_path / "teacher", "train.steps=2"))
    settings = (f"model.backbone={tiny_deit(monkeypatch)}", "roi.distill=soft", "train.steps=2",
                f"distill.teacher={tmp_path / 'teacher'}")  # fmt: skip
    trainer = trained(config_of(data, tmp_path / "student", *settings))
    assert trainer.step == 2 and set(trainer.task.weights_at(0)) == {TERM, DISTILLED}
    crop = config_of(data, tmp_path / "crop", *settings, "roi.views=crop")
    with pytest.raises(UserError, match=r"was trained on roi.views = roi_context, and here they are crop"):
        region_teacher(crop)
    with pytest.raises(UserError, match=r"was trained on roi.views"):
        prepare_run(crop, resume=False)
    assert not (tmp_path / "crop").exists()


def test_no_part_of_the_network_is_without_gradient(data: str, tmp_path: Path) -> None:
    """DDP waits for every gradient."""
    run, context = prepared(config_of(data, tmp_path / "r", "train.steps=1"))
    trainer = Trainer(run.config, run.manifest, 1, context)
    gradients = first_gradients(trainer, to_the_end=False)
    assert gradients.keys() == {name for name, each in trainer.student.named_parameters() if each.requires_grad}


def test_smoothing_is_that_of_torch() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0, 1, 0]])
    found = task_of(loss={"label_smoothing": 0.1}).loss(Fixed(logits), batch_of([0, 2]), 0)
    assert_close(
        found[TERM], functional.cross_entropy(logits, torch.tensor([0, 2]), reduction="sum", label_smoothing=0.1)
    )
