"""Whether the best device at hand computes what the CPU does, and how fast: `make gpu-check`, at most eight minutes.

    python -m foodseg.bench.gpu_check > gpu.json     # --tiny: a few seconds on a CPU, as the tests run it

It needs neither Ray nor a hub nor a data set: images are synthetic meals, weights are random. One JSON object on
stdout:

- `equal`: the losses and gradients of one update relative to those of the CPU in fp32, for fp32 and bf16
- `images_per_second`: of training (batches in memory), of `predict` (from JPEG to label map) and of the endpoint's
  forward (batches of decoded images to label maps and confidences), against a bare PyTorch loop on the same device
- `synchronisations`: how often one profiled update calls what the CPU may wait in; on CUDA, cudaStreamSynchronize
  should be 0, and what begins with `aten` also counts where it only reads a tensor of the CPU
- `peak_memory_mib` of training; on a CPU of the whole process so far
- `passed`: losses and gradients are within the tolerances; else the exit status is 1
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import interpolate

from foodseg.bench.bare_train import BareLoop
from foodseg.bench.machine import machine_facts
from foodseg.config import ExperimentConfig, load_config
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.batch import Batch
from foodseg.data.decode import make_batch_arrays
from foodseg.data.image_io import decode_image, encode_mask, fit_longest, resize_image
from foodseg.data.rng import position_seed
from foodseg.data.shards import FORMAT_VERSION, Manifest, SplitCounts
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.models.segmenter import SegmenterNetwork
from foodseg.predict.canvas import padded_size
from foodseg.predict.device import device_name, pick_device
from foodseg.predict.predictor import AUTOCAST, Predictor
from foodseg.train.context import OneProcess
from foodseg.train.loop import Trainer
from foodseg.train.run_log import memory_mib

WARM_UP = 3  # updates or images before the clock starts
# Relative to the CPU in fp32: each loss, and the L2 norm of the difference of all gradients. Gradients stand for the
# update: Adam's first one has the size of the learning rate in every weight, whatever the gradient.
TOLERANCE = {"fp32": (1e-3, 1e-2), "bf16": (0.05, 0.3)}
WAITS = (
    "aten::item", "aten::_local_scalar_dense", "aten::nonzero", "cudaStreamSynchronize", "cudaEventSynchronize",
)  # fmt: skip
# every term that needs neither text nor a diffusion model, on images of which some ids are not annotated
EVERY_TERM = (
    "loss.dice=0.5", "loss.distill=1", "loss.features=1", "loss.stages=1", "loss.deeper=1", "loss.ingredients=0.2",
    "model.ingredient_head=true", "distill.ramp=0", "optim.warmup=0",
)  # fmt: skip
ALIKE = ("train.batch_norm=frozen", "model.dropout=0")  # dropout draws other numbers on other devices


class Sizes(NamedTuple):
    """How much is measured: updates of `batch` crops of `side` x `side` pixels, and as many predicted images."""

    settings: tuple[str, ...]
    side: int
    batch: int
    updates: int


TINY = Sizes(("model.backbone=test_resnet", "model.pyramid_channels=8", "model.decoder_channels=8"), 64, 2, 3)
SIZES = {"cuda": Sizes((), 512, 16, 40), "mps": Sizes((), 512, 8, 20), "cpu": Sizes((), 256, 4, 8)}


@dataclass
class _InMemory(OneProcess):
    """A `TrainContext` whose batches are in memory; it times or profiles the updates between them."""

    held: list[Batch]
    device: torch.device
    profiled: bool = False
    seconds: float = 0.0  # of the updates behind WARM_UP and before the last one
    waits: dict[str, int] = field(default_factory=dict)

    def batches(self, start_step: int, total_steps: int) -> Iterator[Batch]:
        started, profiler = 0.0, torch.profiler.profile()
        for step in range(start_step, total_steps):
            if self.profiled and step == total_steps - 2:
                profiler.start()
            if step in (WARM_UP, total_steps - 1):
                if self.profiled and step == total_steps - 1:
                    profiler.stop()
                    found = {event.key: event.count for event in profiler.key_averages()}
                    self.waits = {name: found.get(name, 0) for name in WAITS}
                _wait_for(self.device)
                started, self.seconds = time.perf_counter(), time.perf_counter() - started
            batch = self.held[step % len(self.held)]
            first = step * len(batch)
            yield Batch(**{**vars(batch), "position": torch.arange(first, first + len(batch))})

    def report(self, *announced: Any) -> None:
        pass

    def restore(self) -> str | None:
        return None

    def stop_requested(self) -> bool:
        return False


def gpu_check(sizes: Sizes, device: torch.device, folder: Path) -> dict[str, Any]:
    """Runs all checks; `folder` takes the files of the trainings. Returns the JSON object of the module's docstring."""
    began = time.perf_counter()
    single_threaded_opencv()
    meals = [_meal(number, sizes.side) for number in range(4 * sizes.batch)]
    precision = "fp32" if device.type == "mps" else "bf16"
    equal = _equal(sizes, device, meals, folder)
    _say(f"training on {device_name(device)}")
    trained, train = _train_speed(sizes, device, meals, folder, precision)
    _say("one profiled update")
    profiled = _run(sizes, device, meals, folder / "profiled", precision, WARM_UP + 2, EVERY_TERM, profiled=True)
    _say("prediction")
    labelled = _label_speeds(sizes, device, trained.student, meals, precision)
    return {
        "device": device_name(device),
        "images": "synthetic meals (drawn, not photographed); random weights",
        "sizes": {"side": sizes.side, "batch": sizes.batch, "updates": sizes.updates, "precision": precision},
        "equal": equal,
        "images_per_second": {"train": train, **labelled},
        "synchronisations": profiled.context.waits,
        "peak_memory_mib": round(trained.peak_mib),
        "passed": all(one["within"] for one in equal.values()),
        "seconds": round(time.perf_counter() - began, 1),
        "machine": asdict(machine_facts(torch.get_num_threads())),
    }


class _Meal(NamedTuple):
    """An encoded synthetic meal."""

    jpeg: bytes
    mask: bytes
    size: tuple[int, int]


def _meal(number: int, side: int) -> _Meal:
    height = side if number % 2 else side * 3 // 4
    image, mask = draw_meal(number, height, side)
    mask[: height // 8] = SYNTHETIC_CLASSES.ignore_id
    return _Meal(cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes(), encode_mask(mask), (height, side))


class _Trained(NamedTuple):
    context: _InMemory
    student: SegmenterNetwork
    peak_mib: float
    gradients: dict[str, torch.Tensor]  # of the last update, on the CPU
    losses: dict[str, float]


def _run(
    sizes: Sizes, device: torch.device, meals: list[_Meal], folder: Path, precision: str, steps: int,
    settings: tuple[str, ...], profiled: bool = False,
) -> _Trained:  # fmt: skip
    """Trains some updates with the same loop as `foodseg train`."""
    config = _config(sizes, folder, precision, steps, settings)
    manifest = _manifest()
    context = _InMemory(_batches(config, manifest, meals), device, profiled)
    trainer = Trainer(config, manifest, steps, context)
    gradients: dict[str, torch.Tensor] = {}

    def keep(*_: Any) -> None:
        if trainer.step == steps - 1:
            named = trainer.student.named_parameters()
            gradients.update({name: p.grad.detach().float().cpu() for name, p in named if p.grad is not None})

    trainer.optimizer.register_step_pre_hook(keep)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer.run()
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    losses = {key.removeprefix("loss/"): value for key, value in last.items() if key.startswith("loss/")}
    assert isinstance(trainer.student, SegmenterNetwork)
    return _Trained(context, trainer.student, memory_mib(device), gradients, losses)


def _equal(sizes: Sizes, device: torch.device, meals: list[_Meal], folder: Path) -> dict[str, Any]:
    """Returns by precision the largest relative difference of a loss, that of the gradients, and the verdict."""
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # else fp32 would not be fp32
    _say("one update on the CPU")
    truth = _run(sizes, torch.device("cpu"), meals, folder / "cpu", "fp32", 1, (*EVERY_TERM, *ALIKE))
    size = _norm(truth.gradients.values())
    found = {}
    for precision in ("fp32",) if device.type == "mps" else ("fp32", "bf16"):
        _say(f"the same on {device_name(device)} in {precision}")
        other = _run(sizes, device, meals, folder / precision, precision, 1, (*EVERY_TERM, *ALIKE))
        assert other.losses.keys() == truth.losses.keys() and other.gradients.keys() == truth.gradients.keys()
        losses = {name: abs(other.losses[name] - value) / abs(value) for name, value in truth.losses.items()}
        gradients = _norm(other.gradients[name] - value for name, value in truth.gradients.items()) / size
        loss_limit, gradient_limit = TOLERANCE[precision]
        within = max(losses.values()) <= loss_limit and gradients <= gradient_limit
        found[precision] = {
            "losses": losses, "gradients": gradients, "tolerances": [loss_limit, gradient_limit], "within": within
        }  # fmt: skip
    torch.backends.cudnn.allow_tf32 = tf32
    return found


def _norm(tensors: Any) -> float:
    return float(sum(tensor.double().square().sum() for tensor in tensors) ** 0.5)


def _train_speed(
    sizes: Sizes, device: torch.device, meals: list[_Meal], folder: Path, precision: str
) -> tuple[_Trained, dict[str, float]]:
    steps = WARM_UP + sizes.updates + 1
    trained = _run(sizes, device, meals, folder / "speed", precision, steps, ())
    config, manifest = _config(sizes, folder / "bare", precision, steps, ()), _manifest()
    bare = BareLoop(config, manifest, world_size=1, device=device)
    context = _InMemory(_batches(config, manifest, meals), device)
    for batch in context.batches(0, steps):
        bare.update([batch.to(device)])
    return trained, _speeds(*(sizes.updates * sizes.batch / one.seconds for one in (trained.context, context)))


def _label_speeds(
    sizes: Sizes, device: torch.device, model: SegmenterNetwork, meals: list[_Meal], precision: str
) -> dict[str, dict[str, float]]:
    """`predict`: from JPEG to label map, one by one. `endpoint`: ids and confidences of batches of decoded images."""
    config = load_config(None, [f"eval.longest_side={sizes.side}"]).config.eval
    predictor = Predictor(model, config, device, precision)
    images, shapes = [decode_image(meals[0].jpeg)] * sizes.batch, [meals[0].size] * sizes.batch

    @torch.inference_mode()
    def bare(images: list[np.ndarray], shape: tuple[int, int]) -> torch.Tensor:
        height, width = fit_longest(*shape, sizes.side)
        pixels = torch.from_numpy(np.stack([resize_image(image, height, width) for image in images])).to(device)
        view = model.mean.expand(len(images), 3, *padded_size(height, width, model.size_multiple)).clone()
        view[:, :, :height, :width] = pixels.permute(0, 3, 1, 2) / 255
        with torch.autocast(device.type, AUTOCAST[precision], enabled=AUTOCAST[precision] is not None):
            logits = model(view.contiguous(memory_format=torch.channels_last)).logits.float()
        return interpolate(logits, size=tuple(view.shape[-2:]), mode="bilinear")[:, :, :height, :width]

    def bare_batch(_: _Meal) -> None:
        best = bare(images, shapes[0]).softmax(1).max(1)
        best.indices.cpu(), best.values.cpu()

    def batch_of(_: _Meal) -> None:
        for logits in predictor.logits(images, shapes):
            logits.ids_and_confidence(1.0)

    own = _rate(lambda meal: predictor.logits_of_file(meal.jpeg).ids(), meals, sizes.updates)
    other = _rate(lambda meal: bare([decode_image(meal.jpeg)], meal.size).argmax(1).cpu(), meals, sizes.updates)
    batches = -(-sizes.updates // 2)
    return {
        "predict": _speeds(own, other),
        "endpoint": _speeds(*(sizes.batch * _rate(label, meals, batches) for label in (batch_of, bare_batch))),
    }


def _rate(label: Callable[[_Meal], object], meals: list[_Meal], count: int) -> float:
    for number in range(WARM_UP):
        label(meals[number % len(meals)])
    started = time.perf_counter()
    for number in range(count):
        label(meals[number % len(meals)])
    return count / (time.perf_counter() - started)


def _speeds(own: float, bare: float) -> dict[str, float]:
    return {"foodseg": round(own, 2), "bare": round(bare, 2), "share": round(own / bare, 3)}


def _config(sizes: Sizes, folder: Path, precision: str, steps: int, settings: tuple[str, ...]) -> ExperimentConfig:
    return load_config(
        None,
        [
            f"run.uri={folder}", f"augment.crop={sizes.side}", f"augment.longest_side={sizes.side}",
            f"train.global_batch={sizes.batch}", f"train.micro_batch={sizes.batch}", f"train.precision={precision}",
            f"train.steps={steps}", f"train.log_every={steps}", f"train.checkpoint_every={steps}",
            "model.weights=none", "data.val_split=null", "scaling.num_workers=0", *sizes.settings, *settings,
        ],
    ).config  # fmt: skip


def _manifest() -> Manifest:
    """Of data that are in no shards: half of the images do not annotate the last classes."""
    classes = len(SYNTHETIC_CLASSES)
    counts = SplitCounts(
        images=0, unlabelled=0, groups=0, class_images=(0,) * classes, class_pixels=(1,) * classes, ignored_pixels=0
    )
    return Manifest(
        format_version=FORMAT_VERSION, name="synthetic meals", generation=1, folder="", quarantined=0, shards=(),
        classes=SYNTHETIC_CLASSES.names, ignore_id=SYNTHETIC_CLASSES.ignore_id, counts={"train": counts},
        annotated={"all": None, "some": tuple(range(classes - 2))},
    )  # fmt: skip


def _batches(config: ExperimentConfig, manifest: Manifest, meals: list[_Meal]) -> list[Batch]:
    size = config.train.global_batch
    found = []
    for start in range(0, len(meals), size):
        numbers, own = range(start, start + size), meals[start : start + size]
        rows = {
            "image": [meal.jpeg for meal in own],
            "mask": [meal.mask for meal in own],
            "height": [meal.size[0] for meal in own],
            "width": [meal.size[1] for meal in own],
            "seed": [position_seed(0, number) for number in numbers],
            "position": list(numbers),
            "source": ["some" if number % 2 else "all" for number in numbers],
        }
        found.append(Batch.from_arrays(make_batch_arrays(pa.table(rows), config.augment, manifest)))
    return found


def _wait_for(device: torch.device) -> None:
    {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)()


def _say(text: str) -> None:
    print(f"gpu-check: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Prints the JSON object; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few images: a test of the check itself")
    device = pick_device()
    sizes = TINY if parser.parse_args().tiny else SIZES[device.type]
    with tempfile.TemporaryDirectory(prefix="foodseg-gpu-check-") as folder:
        result = gpu_check(sizes, device, Path(folder))
    print(json.dumps(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
