"""An ablation with outer folds on the shared cluster: what is trained, shared, scored, and never opened."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.metrics.per_image import read_image_counts
from foodseg.tune.ablation import AblationResult
from foodseg.tune.ray_ablate import run_ablation
from foodseg.tune.sweep_files import read_ablation
from foodseg.tune.trials import Ledger
from tests.support.drivers import kill_driver, wait_for
from tests.support.sweep_files import write_ablation
from tests.support.synthetic_set import write_synthetic

SETTINGS = ["data.val_split=null", "data.train_splits=[train, val]", "train.ema_horizon=0.5"]
VARIANTS = {
    "plain": {},
    "mirrored": {"eval.flip": True},
    "NaN": {"optim.lr": 1e30},
    "NaN mirrored": {"optim.lr": 1e30, "eval.flip": True},
}


def without_test(folder: Path) -> str:
    """A data set whose test shards are gone: whoever opens them fails."""
    data = write_synthetic(folder)
    for path in (folder / "v-1" / "test").glob("*.parquet"):
        path.unlink()
    return data


def write_maps(data: str, folder: Path, ids: list[str]) -> None:
    """Label maps of these images that are right wherever there is a label."""
    folder.mkdir(parents=True)
    reader = RowReader(data, read_manifest(data), ["train", "val"])
    for row in reader.take(range(len(reader))).to_pylist():
        if row["mask"] is not None and row["image_id"] in ids:
            mask = decode_mask(row["mask"])
            cv2.imwrite(str(folder / f"{row['image_id']}.png"), mask * (mask < 255))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ablated(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AblationResult]:
    folder = tmp_path_factory.mktemp("folds")
    path = write_ablation(
        folder / "a.yaml", without_test(folder / "data"), folder / "ablation", variants=VARIANTS,
        ablation={"folds": 2, "resamples": 200}, overrides=SETTINGS,
    )  # fmt: skip
    return folder, run_ablation(read_ablation(path, []), test_log=str(folder / "access.jsonl"))


def test_each_image_is_scored_once_by_the_run_that_has_not_seen_it(ablated: tuple[Path, AblationResult]) -> None:
    folder, result = ablated
    reader = RowReader(str(folder / "data"), read_manifest(str(folder / "data")), ["train", "val"])
    rows = reader.columns(["image_id", "mask", "ingredients"]).to_pylist()
    lists = [(folder / "ablation" / "folds" / f"fold-{fold}.txt").read_text().split() for fold in (0, 1)]
    assert sorted(lists[0] + lists[1]) == sorted(row["image_id"] for row in rows)
    for fold, held_out in enumerate(lists):
        scored = folder / "ablation" / "scores" / f"plain-seed0-fold{fold}"
        for weights in ("images.parquet", "images-ema.parquet"):
            found = {image.image_id for image in read_image_counts(str(scored / weights))[0]}
            assert found == {row["image_id"] for row in rows if row["image_id"] in held_out and row["mask"]}
        trained = load_checkpoint(newest_checkpoint(str(folder / "ablation" / "runs" / f"plain-seed0-fold{fold}")))
        assert (trained.config.train.seed, trained.config.data.held_out) == (fold, fold)
        kept = {index for row in rows if row["image_id"] not in held_out for index in row["ingredients"]}
        assert set(trained.trained_ids) - {0} == kept
    labelled = sum(row["mask"] is not None for row in rows)
    for table in result.tables.values():
        assert table.images == labelled == 14 and table.folds == 2
        assert table.variants["plain"]["miou"].seeds.keys() == {0}
    assert result.split == "2 folds of train and val"


def test_variants_share_a_training(ablated: tuple[Path, AblationResult]) -> None:
    folder, result = ablated
    assert {trial.name: trial.status for trial in Ledger(str(folder / "ablation"))} == {
        "plain-seed0-fold0": "finished", "plain-seed0-fold1": "finished",
        "nan-seed0-fold0": "failed", "nan-seed0-fold1": "failed",
    }  # fmt: skip
    table = result.tables["student"]
    assert list(table.variants) == ["plain", "mirrored"] and list(table.contrasts) == ["mirrored - plain"]
    assert table.variants["plain"] != table.variants["mirrored"]
    assert table.costs["plain"] == table.costs["mirrored"] and table.costs["plain"].memory_mib > 100
    scored = json.loads((folder / "ablation" / "scores" / "mirrored-seed0-fold0" / "metrics.json").read_text())
    assert scored["eval"]["flip"] is True and scored["split"] == "train and val, fold 0 of 2"


def test_what_failed_is_said_of_every_variant(ablated: tuple[Path, AblationResult]) -> None:
    failed = ablated[1].failed
    assert failed["nan-seed0-fold1"].startswith("the loss cross_entropy is")
    shared = "the training that it shares, nan-seed0-fold1, failed: the loss cross_entropy is"
    assert failed["nan-mirrored-seed0-fold1"].startswith(shared)
    for variant in ("nan", "nan-mirrored"):
        assert failed[f"{variant}-seed0"] == "left out of the table, as folds 0, 1 are not scored"
    assert len(failed) == 6


def test_the_test_split_is_never_opened(ablated: tuple[Path, AblationResult]) -> None:
    folder = ablated[0]
    manifest = read_manifest(str(folder / "data"))
    assert manifest.counts["test"].images == 4, "there is one"
    assert not list((folder / "data" / "v-1" / "test").glob("*.parquet"))
    assert not list(folder.rglob("*access.jsonl"))


def test_what_is_added_is_scored_and_nothing_is_trained_again(ablated: tuple[Path, AblationResult]) -> None:
    folder, before = ablated
    uri = folder / "ablation"
    for fold in (0, 1):
        ids = (uri / "folds" / f"fold-{fold}.txt").read_text().split()
        write_maps(str(folder / "data"), folder / f"maps-{fold}", ids)
    variants = {**VARIANTS, "small": {"eval.longest_side": 64}, "peer": {"predictions": str(folder / "maps-{fold}")}}
    path = write_ablation(
        folder / "b.yaml", str(folder / "data"), uri, variants=variants,
        ablation={"folds": 2, "resamples": 200}, overrides=SETTINGS,
    )  # fmt: skip
    runs = {name: contents(uri / "runs" / name) for name in ("plain-seed0-fold0", "plain-seed0-fold1")}
    scores = contents(uri / "scores")
    result = run_ablation(read_ablation(path, []), resume=True)
    assert {name: contents(uri / "runs" / name) for name in runs} == runs
    assert scores.items() <= contents(uri / "scores").items(), "an existing score is kept"
    table = result.tables["student"]
    assert list(table.variants) == ["plain", "mirrored", "small", "peer"]
    assert table.variants["plain"] == before.tables["student"].variants["plain"]
    assert table.variants["small"] != table.variants["plain"]
    assert table.variants["peer"]["miou"].mean == 1.0 and "peer" not in table.costs
    peer = next(line for line in (uri / "table.md").read_text().splitlines() if line.startswith("| peer |"))
    assert peer.endswith("| - | - |")


@pytest.mark.chaos
def test_a_killed_driver(tmp_path: Path) -> None:
    """The run of fold 0 is finished, that of fold 1 is killed in the middle; then both are scored for both variants."""
    uri = tmp_path / "ablation"
    path = write_ablation(
        tmp_path / "a.yaml", without_test(tmp_path / "data"), uri, variants={"plain": {}, "big": {"eval.flip": True}},
        ablation={"folds": 2, "resamples": 100, "concurrent": 1},
        overrides=[*SETTINGS, "train.steps=60", "train.checkpoint_every=5"],
    )  # fmt: skip

    def steps(fold: int) -> list[int]:
        log = uri / "runs" / f"plain-seed0-fold{fold}" / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line["step"] for line in lines if "positions" in line]

    command = [sys.executable, "-m", "foodseg", "ablate", "--config", path, "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: driver.poll() is not None or len(steps(1)) >= 10, 280)
    assert driver.poll() is None, driver.communicate()[1].decode()
    kill_driver(driver)
    first = contents(uri / "runs" / "plain-seed0-fold0")
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=280, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert contents(uri / "runs" / "plain-seed0-fold0") == first
    assert sorted(set(steps(1))) == list(range(1, 61)) and len(steps(1)) - 60 <= 6
    result = json.loads(resumed.stdout)
    assert result["failed"] == {} and list(result["student"]["variants"]) == ["plain", "big"]
    assert result["student"]["images"] == 14 and np.isfinite(result["student"]["costs"]["big"]["memory_mib"])
