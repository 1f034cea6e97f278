"""The conditioning of student and teacher in training, and the classes that the ingredient head learns."""

import numpy as np
import pytest
import torch
from torch import nn

from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.data.batch import Batch
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.losses.cross_entropy import cross_entropy_sum
from foodseg.models.build import build_segmenter
from foodseg.models.segmenter import SegmenterOutput
from foodseg.train.conditioning import student_conditioning
from foodseg.train.loop import Trainer
from foodseg.train.task import SegmentationTask
from tests.support.compare import assert_close, close
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import IGNORE, synthetic_config, write_table

K = len(SYNTHETIC_CLASSES)
ON = ("loss.distill=1", "distill.ramp=0", "optim.warmup=0", "data.val_split=null")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = write_table(tmp_path_factory.mktemp("table") / "names.safetensors")
    return f"model.text={{kind: table, table: {table}}}"


class Recorder(nn.Module):
    """Records its conditioning; its output has the right shapes and depends on a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.conditioning: list[torch.Tensor | None] = []

    def forward(self, image: torch.Tensor, ingredients: torch.Tensor | None = None) -> SegmenterOutput:
        self.conditioning.append(ingredients)
        maps = self.weight * torch.ones(len(image), K, 4, 4)
        return SegmenterOutput(maps, 4, maps.mean((2, 3)), maps, maps[:, :, :2, :2])


def a_batch() -> Batch:
    """Four images of 16 x 16: from a source that annotates all, one that annotates 1 and 2, two without masks."""
    masks = np.full((4, 16, 16), IGNORE, np.uint8)
    masks[0, :8], masks[0, 8:], masks[1, :2] = 0, 3, 2
    ingredients = np.zeros((4, K), bool)
    ingredients[0, 3] = ingredients[1, 2] = True
    return Batch.from_arrays(
        {
            "image": np.zeros((4, 16, 16, 3), np.uint8),
            "mask": masks,
            "extent": np.array([[0, 0, 16, 16], [0, 0, 10, 16], [0, 0, 16, 16], [0, 0, 4, 4]], np.int32),
            "seed": np.arange(4, dtype=np.int64),
            "position": np.arange(4, dtype=np.int64),
            "source": np.array([0, 1, 0, 1], np.int16),
            "ingredients": ingredients,
            "ingredients_known": np.array([True, True, False, False]),
        }
    )


def a_task(config: ExperimentConfig) -> SegmentationTask:
    text = torch.randn(K, 16, generator=torch.Generator().manual_seed(0)) if config.model.fusion != "none" else None
    model = build_segmenter(config.model, K, pretrained=False, text=text)
    return SegmentationTask(config, SYNTHETIC_CLASSES, {"all": None, "some": (0, 1, 2)}, model, total_steps=10)


def only(*ids: int) -> list[bool]:
    return [index in (0, *ids) for index in range(K)]


EVERY = [True] * K
SOME = only(2, *range(3, K))  # what is not annotated may be there


def conditioning_of(config: ExperimentConfig) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The conditioning of student and teacher."""
    student, teacher = Recorder(), Recorder()
    a_task(config).loss(student, a_batch(), 5, teacher)
    return student.conditioning[0], teacher.conditioning[0]


def test_the_teacher_is_conditioned_on_the_truth_and_the_student_on_drawn_classes(names):
    config = synthetic_config(
        "data", "run", "model.fusion=cross_attention", names, *ON, "distill.conditioning_mix=[0, 1, 0, 0]"
    )
    for conditioning in conditioning_of(config):
        assert conditioning is not None and conditioning.tolist() == [only(3), SOME, EVERY, EVERY]
    config = synthetic_config("data", "run", "model.fusion=cross_attention", names, *ON)
    student, teacher = conditioning_of(config)
    assert teacher is not None and teacher.tolist() == [only(3), SOME, EVERY, EVERY]
    possible = torch.tensor([only(3), SOME, only(), only(*range(3, K))])
    expected = student_conditioning(possible, torch.tensor([True, True, False, False]), torch.arange(4), config.distill)
    assert student is not None and torch.equal(student, expected)


def test_a_teacher_of_the_vocabulary_is_unconditioned_and_the_student_is_as_before(names):
    settings = ["model.fusion=cross_attention", names, *ON]
    student, teacher = conditioning_of(
        synthetic_config("data", "run", *settings, "distill.teacher_conditioning=vocabulary")
    )
    assert teacher is None and student is not None
    assert torch.equal(student, conditioning_of(synthetic_config("data", "run", *settings))[0])


def test_the_student_has_the_same_conditioning_without_a_teacher(names):
    """So that variants with and without distillation differ in nothing else."""
    settings = ["model.fusion=cross_attention", names]
    alone, with_teacher = Recorder(), Recorder()
    a_task(synthetic_config("data", "run", *settings)).loss(alone, a_batch(), 5)
    a_task(synthetic_config("data", "run", *settings, *ON)).loss(with_teacher, a_batch(), 5, Recorder())
    assert alone.conditioning[0] is not None and torch.equal(alone.conditioning[0], with_teacher.conditioning[0])


def test_a_model_without_text_is_unconditioned():
    assert conditioning_of(synthetic_config("data", "run", *ON)) == (None, None)


def test_the_head_learns_the_classes_that_are_known(names):
    """Of the second image's source 1 and 2 alone; of images without a mask nothing; of background never."""
    task = a_task(synthetic_config("data", "run", "model.ingredient_head=true", "loss.ingredients=2"))
    assert task.weights_at(0) == {"cross_entropy": 1.0, "ingredients": 2.0}
    assert task.counts(a_batch(), 0)["ingredients"].item() == (K - 1) + 2
    found = task.loss(Recorder(), a_batch(), 0)["ingredients"].item()
    there, absent = np.log1p(np.exp(-1.0)), np.log1p(np.exp(1.0))  # all logits are 1
    assert found == close(2 * there + (K - 2 + 1) * absent)


def test_the_score_map_is_trained_at_the_finest_stride(names):
    task = a_task(synthetic_config("data", "run", "model.fusion=score_map", "loss.score_map=0.5", names))
    batch = a_batch()
    thinned = batch.mask.long()[:, 2::4, 2::4]
    assert task.counts(batch, 0)["score_map"].item() == 16 == (thinned != IGNORE).sum()
    found = task.loss(Recorder(), batch, 0)["score_map"]
    expected = cross_entropy_sum(torch.ones(4, K, 2, 2), thinned, IGNORE, task._hidden(batch))
    assert_close(found, expected)


def test_what_the_teachers_terms_are_divided_by():
    """Pixels that are not padding, whether there is a mask or not."""
    counts = a_task(synthetic_config("data", "run", *ON, "loss.features=1")).counts(a_batch(), 5)
    assert {name: int(count) for name, count in counts.items()} == {
        "cross_entropy": 256 + 32,
        "distill": 256 + 160 + 256 + 16,
        "features": 256 + 160 + 256 + 16,
    }


FUSIONS = {
    "score_map": ["model.fusion=score_map", "loss.score_map=0.4"],
    "cross_attention": ["model.fusion=cross_attention"],
    "film": ["model.fusion=film", "model.ingredient_head=true", "loss.ingredients=0.2"],
}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_is_trained(data, names, tmp_path, fusion):
    """DDP waits for the gradient of each: one that no term reaches would end a run on two workers."""
    run, context = prepared(synthetic_config(data, tmp_path / "r", names, *FUSIONS[fusion], *ON))
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    (batch,) = context.batches(0, 1)
    sum(trainer.task.loss(trainer.student, batch, 0, trainer.teacher.module).values()).backward()
    assert [name for name, p in trainer.student.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_resumed_run_with_names_is_the_undisturbed_one(data, names, tmp_path, fusion):
    settings = [names, *FUSIONS[fusion], *ON, "train.steps=4", "loss.features=0.5"]
    for name, stops in {"whole": [], "parts": [False, True]}.items():
        run, context = prepared(synthetic_config(data, tmp_path / name, *settings))
        answers = iter(stops)
        context.stop_requested = lambda answers=answers: next(answers, False)  # type: ignore[method-assign,misc]
        Trainer(run.config, run.manifest, run.total_steps, context).run()
    run, context = prepared(synthetic_config(data, tmp_path / "parts", *settings), resume=True)
    assert Trainer(run.config, run.manifest, run.total_steps, context).run().step == 4
    one, other = (load_checkpoint(newest_checkpoint(str(tmp_path / name)) or "") for name in ("whole", "parts"))
    for found, expected in ((one.student, other.student), (one.teacher, other.teacher)):
        assert found is not None and expected is not None and found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
