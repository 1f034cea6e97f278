"""Finds what `foodseg serve` can serve where its configuration names nothing, and says where to get the rest.

found = look(Path("."), {})      # .overrides of the configuration, .sentences for people
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.errors import FoodsegError
from foodseg.serve.deploy_file import given_sections, read_deploy_file

RUNS = ("runs", "demo-out")  # where trainings of the README write, and `foodseg demo`
SAM_FILES = (
    ("mobile_sam.safetensors", "vit_t"), ("mobile_sam.pt", "vit_t"), ("sam_vit_b_01ec64.pth", "vit_b"),
    ("sam_vit_l_0b3195.pth", "vit_l"), ("sam_vit_h_4b8939.pth", "vit_h"),
)  # fmt: skip
WEIGHTS = (".", "weights")
MODEL_SOURCE = "train one with `foodseg train -c CONFIG --set run.uri=runs/NAME` (or `foodseg demo`, in minutes)"
SAM_SOURCE = "mobile_sam.pt (40 MB) from https://github.com/ChaoningZhang/MobileSAM/tree/master/weights"
REGIONS_SOURCE = "train one with `foodseg train -c CONFIG --set model.kind=roi --set run.uri=runs/NAME`"
CLIP_SOURCE = "pip install 'foodseg[clip]', get weights of https://github.com/mlfoundations/open_clip"


@dataclass(frozen=True)
class Found:
    """overrides: `section.key=value`. sentences: what was found, and how to add the rest, one a line."""

    overrides: list[str]
    sentences: list[str]


def settings_here(file: str | None, overrides: Sequence[str], address: str | None) -> Found:
    """Returns the overrides for what the current folder holds, followed by those of the command.

    On a cluster it looks for nothing: replicas on other nodes do not see this folder.

    Raises:
        UserError: as `read_deploy_file`.
    """
    if address is not None:
        return Found(list(overrides), [])
    found = look(Path(), given_sections(read_deploy_file(file, overrides), file or "the defaults"))
    return Found([*found.overrides, *overrides], found.sentences)


def look(folder: Path, given: Mapping[str, Any]) -> Found:
    """Looks below `folder` for what `given`, the sections of the file and the overrides, does not name."""
    overrides: list[str] = []
    sentences = []
    if not (given.get("segmenter") or {}).get("models"):
        run = newest_run(folder)
        if run is None:
            sentences.append(f"no segmentation model is here, so /v1/segment answers 503: {MODEL_SOURCE}")
        else:
            overrides.append(f"segmenter.models.meals={run}")
            sentences.append(f"model: {run}, the newest run here (another: --set segmenter.models.meals=RUN)")
    if "sam" not in given:
        weights = next(
            ((folder / subfolder / name, kind) for subfolder in WEIGHTS for name, kind in SAM_FILES
             if (folder / subfolder / name).is_file()), None,
        )  # fmt: skip
        if weights is None:
            sentences.append(
                f"no Segment Anything (clicks, refine=vote): put {SAM_SOURCE} into {WEIGHTS[1]}/, "
                "or --set sam.weights=FILE"
            )
        else:
            # for refine=vote: 256 clicks would take many seconds of a CPU
            overrides += [f"sam.weights={weights[0]}", f"sam.kind={weights[1]}", "sam.points_per_side=8"]
            sentences.append(f"Segment Anything: {weights[0]}")
    if "clip" not in given:
        sentences.append(
            f"no CLIP (any names, /v1/zero-shot): {CLIP_SOURCE}, then --set clip.model=ViT-B-16 --set clip.weights=FILE"
        )
    return Found(overrides, sentences)


def newest_run(folder: Path) -> Path | None:
    """Returns the run whose checkpoints were written last, of those that have a valid one; no region classifier."""
    written = {}
    for subfolder in RUNS:
        for pointer in (folder / subfolder).glob("**/last.json"):
            written[pointer.parent] = pointer.stat().st_mtime
    for run in sorted(written, key=lambda path: (-written[path], path)):
        try:
            checkpoint = resolve_checkpoint(str(run))
        except FoodsegError:
            continue
        if not _names_regions(Path(checkpoint)):
            return run
    return None


def _names_regions(checkpoint: Path) -> bool:
    try:
        tree = json.loads((checkpoint / "config.json").read_bytes())
        return bool(tree["model"]["kind"] == "roi")
    except (OSError, ValueError, TypeError, KeyError):  # what is wrong with it is said where it is loaded
        return False
