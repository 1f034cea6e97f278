"""Does a diffusion backbone work, what does it cost, does it use its class names? `python -m experiments diffusion`.

Stable Diffusion 1.5 at full size with random weights, and a tiny model of the same classes through the whole path.
"""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments.diffusion.spoiled_names import How, val_miou
from experiments.foodmix import class_embeddings, foodmix, prepared_foodmix, scores_of, sets, stems
from experiments.foodmix_runs import RECIPE, train_variant, update_cost
from experiments.item_queue import FOODSEG, ROOT, Bench, Item, ItemError
from foodseg.bench.memory import PeakMemory
from foodseg.config.model import ModelConfig
from foodseg.config.text import TextConfig

# The tiny model has the classes of the real one and random weights, its VAE's too, which stay as they are.
TINY = (
    "model.kind=diffusion", "model.backbone=tiny", "model.weights=null", "model.strides=[8, 16, 32, 64]",
    "model.pyramid_channels=64", "model.decoder_channels=64", "optim.backbone_lr_factor=1.0",
    "augment.longest_side=128", "augment.crop=128", "eval.longest_side=128", "data.train_splits=[train]",
)  # fmt: skip
NAMED = ("model.fusion=cross_attention", "model.text.kind=table", "model.text.table={names}")
INGREDIENT_HEAD = ("model.ingredient_head=true", "loss.ingredients=0.2")
DISTILLED = ("loss.distill=0.1", "loss.features=0.1", "loss.stages=0.1", "loss.deeper=0.05", "loss.attention=0.1")
SEEDS = (0, 1, 2)
VARIANT_STEPS = 606  # 12 epochs of 404 images, 8 at a time
VARIANT = (f"train.steps={VARIANT_STEPS}", "train.checkpoint_every=202", "train.ema_horizon=0.1", "eval.weights=ema",
       "scaling.num_workers=2")  # fmt: skip
# Three in five students are conditioned on the classes of their crop: with the whole vocabulary some hundred updates
# learn nothing about names.
VARIANTS = {"names": (*NAMED, "distill.conditioning_mix=[0.2, 0.6, 0.1, 0.1]"), "image only": ()}
SPOILED: tuple[How, ...] = ("as trained", "embeddings exchanged", "conditioning exchanged", "maps zeroed")
# Eight images by heart: always the same crop, the same colours, all names.
EIGHT_STEPS, STOP_AFTER, ENOUGH = 500, 100, 0.95
SERVED_AS_PREDICTED = 0.99  # share of the pixels
EIGHT = (
    f"train.steps={EIGHT_STEPS}", "train.checkpoint_every=50", "train.ema_horizon=0.02", "eval.weights=student",
    "augment.longest_side=192", "augment.crop=192", "eval.longest_side=192",  # at 128 px outlines alone cost 3 %
    "augment.scale=[1.0, 1.0]", "augment.flip=0", "augment.contrast=[1.0, 1.0]", "augment.brightness=0",
    "model.dropout=0", "distill.conditioning_mix=[1, 0, 0, 0]", "scaling.num_workers=2",
)  # fmt: skip
COST_STEPS = 30
COSTS: dict[str, tuple[str, ...]] = {
    "image only": (),
    "names, no maps": (*NAMED, "model.diffusion.maps=false"),
    "names and maps": NAMED,
    "names and maps, gradient checkpointing": (*NAMED, "model.diffusion.gradient_checkpointing=true"),
    "names and maps, distillation": (*NAMED, *DISTILLED),
    "names and maps, distillation, gradient checkpointing": (
        *NAMED, *DISTILLED, "model.diffusion.gradient_checkpointing=true"
    ),
    "names and maps, LoRA": (*NAMED, "model.diffusion.unet=lora"),
    "names and maps, frozen UNet": (*NAMED, "model.diffusion.unet=frozen"),
}  # fmt: skip


def full_size(bench: Bench) -> dict[str, Any]:
    """Stable Diffusion 1.5: counted and run without memory, then one real forward of random weights on the CPU."""
    from diffusers import UNet2DConditionModel

    from foodseg.models.backbones.diffusion_weights import unet_architecture
    from foodseg.models.build import build_segmenter, decoder_inputs

    text = TextConfig(kind="table", table="none", centre=False)
    config = ModelConfig(kind="diffusion", backbone="sd1", fusion="cross_attention", text=text)
    figures: dict[str, Any] = {}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_architecture("sd1"))
        model = build_segmenter(config, 104, text=torch.zeros(104, 768)).eval()
        for height, width in ((512, 512), (512, 384)):
            # the levels in front of the decoder: their features, and their maps of 104 names and the null token
            tokens = torch.zeros(105, 768)
            features, maps = model.backbone(torch.zeros(1, 3, height, width), tokens)
            figures[f"{height} x {width}"] = {
                "features": [list(level.shape[1:]) for level in features],
                "strides": [height // level.shape[2] for level in features],
                "maps": [list(each.shape[1:]) for each in maps],
            }
    figures["unet_parameters"] = sum(parameter.numel() for parameter in unet.parameters())
    figures["decoder_inputs"] = decoder_inputs(model.backbone, 104)
    with PeakMemory() as memory:
        figures["forward_256"] = json.loads(bench.python("-m", "experiments.diffusion.full_size"))
    figures["forward_256"]["peak_mib"] = round(memory.largest / 2**20)
    wanted = {"unet_parameters": 859_520_964, "decoder_inputs": [320, 744, 1384, 1280]}
    wrong = {name: figures[name] for name, value in wanted.items() if figures[name] != value}
    if wrong or not figures["forward_256"]["finite"]:
        raise ItemError(f"expected {wanted}, found {wrong}")
    return figures


def tests(bench: Bench) -> dict[str, Any]:
    """Attention against hooks, masks, sizes, LoRA, gradients, weights, distillation, resuming."""
    models = [f"tests/unit/models/backbones/test_{name}.py" for name in ("diffusion", "diffusion_weights", "latents")]
    models += ["tests/unit/models/text/test_clip_text.py", "tests/unit/losses/test_distillation.py"]
    return bench.run_tests(*models, "tests/unit/train/test_diffusion_training.py")


def path(bench: Bench) -> dict[str, Any]:
    """Eight images by heart with two workers of Ray Train: interrupted, resumed, evaluated, predicted, served."""
    data, run = _eight_images(bench), bench.work / "diffusion-eight"
    settings = (
        f"data.uri={data}", f"run.uri={run}", "data.val_split=null", *TINY, *EIGHT, *DISTILLED, *INGREDIENT_HEAD,
        *(setting.format(**class_embeddings(bench)) for setting in NAMED),
    )  # fmt: skip
    command = ["train", "--config", RECIPE, *sets(*settings)]
    interrupted_at = None
    if not (run / "config.yaml").exists():
        interrupted_at = _interrupted(bench, command, run, STOP_AFTER)
    trained = bench.foodseg(*command, "--resume")
    out = bench.work / "scores-diffusion-eight"
    scored = bench.foodseg("evaluate", run, "--data", data, "--split", "train", "--out", out, "--workers", 0)
    accuracy = scores_of(scored)["aacc"]
    if accuracy < ENOUGH:
        raise ItemError(f"pixel accuracy on the eight images is {accuracy:.4f}, expected at least {ENOUGH}")
    arguments = ("--data", data, "--split", "train", "--out", f"{out}-predicted", "--workers", 0)
    by_prediction = bench.foodseg("evaluate", run, *arguments, "--set", "eval.ingredients=predicted")
    source = foodmix(bench)
    stem = stems(bench.work / "eight-meals", "train")[0]
    image, labelled = source / "images" / f"{stem}.jpg", bench.work / "labelled-diffusion"
    predicted = bench.foodseg("predict", run, image, "--out", labelled)
    listed = [each["name"] for each in predicted["images"][0]["ingredients"]]
    provided = bench.foodseg("predict", run, image, "--out", f"{labelled}-provided", "--ingredients", ", ".join(listed))
    return {
        "interrupted_at": interrupted_at,
        "steps": trained["step"],
        "train_scores": scores_of(scored),
        "train_scores_predicted": scores_of(by_prediction),
        "predicted": listed,
        "provided": {"conditioning": listed, "found": [each["name"] for each in provided["images"][0]["ingredients"]]},
        "served": _served(run, image, np.asarray(Image.open(labelled / f"{stem}.png")), listed),
    }


def variants(bench: Bench) -> dict[str, Any]:
    """Names against image only on val; and what the model with names, given true classes, loses by spoiling."""
    data = prepared_foodmix(bench)
    figures: dict[str, list[float]] = {}
    for name, settings in VARIANTS.items():
        for seed in SEEDS:
            given = (*TINY, *VARIANT, *settings, f"train.seed={seed}")
            run = train_variant(bench, f"diffusion-{name.replace(' ', '-')}-{seed}", given, VARIANT_STEPS)
            figures.setdefault(name, []).append(val_miou(run, data, "as trained", oracle=False))
            for how in SPOILED if name == "names" else ():
                figures.setdefault(f"provided (oracle), {how}", []).append(val_miou(run, data, how, oracle=True))
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    spreads = {name: max(values) - min(values) for name, values in figures.items()}
    oracle = "provided (oracle), as trained"
    lost = {how: means[oracle] - means[f"provided (oracle), {how}"] for how in SPOILED[1:]}
    return {
        "val_miou": figures,
        "spread_of_seeds": spreads,
        "lost": lost,
        "beyond_the_spread": {how: value > spreads[oracle] for how, value in lost.items()},
        "gained_over_image_only": means["names"] - means["image only"],
        "ties_with_image_only": abs(means["names"] - means["image only"]) <= max(spreads[name] for name in VARIANTS),
    }


def cost(bench: Bench) -> dict[str, Any]:
    """Seconds of an update of 8 images of 128 px and peak memory, in one process, on an idle machine."""
    return {
        name: update_cost(bench, f"diffusion {name}", (*TINY, *settings), COST_STEPS)
        for name, settings in COSTS.items()
    }


ITEMS: list[Item] = [
    ("full_size", full_size),
    ("tests", tests),
    ("path", path),
    ("variants", variants),
    ("cost", cost),
]


def _eight_images(bench: Bench) -> Path:
    """Eight real training images as a data set of their own; one more each for val and test, which are not read."""
    source, folder, data = foodmix(bench), bench.work / "eight-meals", bench.work / "eight"
    if (data / "dataset.json").exists():
        return data
    listed = stems(source, "train")
    chosen = listed[:: len(listed) // 10][:10]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for stem in chosen:
            (path,) = (source / part).glob(f"{stem}.*")
            shutil.copyfile(path, folder / part / path.name)
    shutil.copyfile(source / "classes.txt", folder / "classes.txt")
    for split, own in (("train", chosen[:8]), ("val", chosen[8:9]), ("test", chosen[9:])):
        (folder / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in own), encoding="utf-8")
    bench.foodseg("data", "prepare", folder, data)
    return data


def _interrupted(bench: Bench, command: Sequence[str], run: Path, step: int) -> int:
    """Starts a training and presses Ctrl-C once `step` is saved; returns the step of the last checkpoint."""
    words = [*FOODSEG, *map(str, command)]
    bench.commands.append("Ctrl-C after some checkpoints of the next command without --resume")
    driver = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    try:
        while driver.poll() is None and _saved(run) < step:
            time.sleep(1)
        if driver.poll() is not None:
            raise ItemError(f"the training ended by itself with exit code {driver.returncode}")
        driver.send_signal(signal.SIGINT)
        driver.wait(timeout=300)
    finally:
        if driver.poll() is None:
            driver.kill()
    return _saved(run)


def _saved(run: Path) -> int:
    last = run / "last.json"
    return int(json.loads(last.read_text(encoding="utf-8"))["step"]) if last.exists() else 0


def _served(run: Path, image: Path, expected: np.ndarray, listed: list[str]) -> dict[str, Any]:
    """Asks an endpoint of its own for the image, without and with conditioning; `expected`: what `predict` gives."""
    from foodseg.serve.client import Client, label_map
    from foodseg.serve.ray_serving import serving
    from tests.support.tiny_checkpoints import free_port

    overrides = [f"segmenter.models.meals={run}", f"http.port={free_port()}"]
    with serving(None, overrides) as endpoint, Client(endpoint.url) as client:
        found = label_map(client.segment(image, format="png"))
        conditioned = client.segment(image, ingredients=listed, format="png")
    same, named = float((found == expected).mean()), [ingredient.name for ingredient in conditioned.ingredients]
    if same < SERVED_AS_PREDICTED or not set(named) <= set(listed):
        raise ItemError(
            f"the endpoint agrees with predict on {same:.4f} of the pixels; conditioned on {listed}, it found {named}"
        )
    return {"pixels_as_predicted": same, "conditioned": named}
