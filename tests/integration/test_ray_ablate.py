"""An ablation on the shared cluster: variants x seeds, label maps of others, and the table of their differences."""

import json
from pathlib import Path

import cv2
import pytest

from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.tune.ablation import AblationResult
from foodseg.tune.ray_ablate import run_ablation
from foodseg.tune.sweep_files import AblationPlan, read_ablation
from foodseg.tune.trials import Ledger
from tests.support.sweep_files import write_ablation
from tests.support.synthetic_set import write_synthetic

pytestmark = pytest.mark.chaos

VARIANTS = {"plain": None, "No learning": {"optim.lr": 1e-9}, "NaN": {"optim.lr": 1e30}, "peer": {"predictions": ""}}


def write_truth(data: str, folder: Path) -> None:
    """Label maps that are right wherever there is a label."""
    folder.mkdir(parents=True)
    for row in RowReader(data, read_manifest(data), ["test"]).take(range(4)).to_pylist():
        if row["mask"] is not None:
            mask = decode_mask(row["mask"])
            cv2.imwrite(str(folder / f"{row['image_id']}.png"), mask * (mask < 255))


@pytest.fixture(scope="module")
def ablated(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, AblationPlan, AblationResult, Path]:
    folder = tmp_path_factory.mktemp("ablation")
    data = write_synthetic(folder / "data")
    for seed in (0, 1):
        write_truth(data, folder / f"maps-{seed}")
    variants = {**VARIANTS, "peer": {"predictions": str(folder / "maps-{seed}")}}
    (folder / "few.txt").write_text("1\n2\n")
    ablation = {"seeds": [0, 1], "split": "test", "subsets": [str(folder / "few.txt")], "resamples": 200}
    settings = ["train.ema_horizon=0.5", "data.val_split=null"]
    path = write_ablation(
        folder / "a.yaml", data, folder / "ablation", variants=variants, ablation=ablation, overrides=settings
    )
    plan = read_ablation(path, [])
    log = folder / "access.jsonl"
    return folder / "ablation", plan, run_ablation(plan, test_log=str(log)), log


def test_the_table(ablated: tuple[Path, AblationPlan, AblationResult, Path]) -> None:
    uri, _, result, _ = ablated
    for kind in ("student", "ema"):
        table = result.tables[kind]
        variants = table.variants
        assert list(variants) == ["plain", "No learning", "peer"]
        assert variants["peer"]["miou"].mean == 1.0 and variants["peer"]["few"].spread.low == 1.0
        assert list(variants["plain"]["miou"].seeds) == [0, 1]
        assert list(table.contrasts) == ["No learning - plain", "peer - plain"]
        assert table.contrasts["peer - plain"].scores["miou"].significant
    assert result.tables["student"].variants["plain"] != result.tables["ema"].variants["plain"]
    written = json.loads((uri / "table.json").read_text())
    assert written["failed"].keys() == {"nan-seed0", "nan-seed1"}
    assert written == json.loads(json.dumps(result.to_json()))
    page = (uri / "table.md").read_text()
    assert "peer minus plain" in page and "nan-seed0: the loss" in page


def test_each_run_opens_the_test_split_once(ablated: tuple[Path, AblationPlan, AblationResult, Path]) -> None:
    uri, plan, result, log = ablated
    scored = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "scored"]
    assert len(scored) == 2 * 2 + 2  # two variants and seeds, both kinds of weights at once; and the label maps
    again = run_ablation(plan, resume=True, test_log=str(log))
    assert again == result
    assert len(log.read_text().splitlines()) == 2 * len(scored)
    assert [trial.status for trial in Ledger(str(uri))].count("finished") == 4


def test_a_split_that_is_none(ablated: tuple[Path, AblationPlan, AblationResult, Path], tmp_path: Path) -> None:
    located = ablated[1].ablation.model_copy(update={"split": "tset", "uri": str(tmp_path)})
    plan = AblationPlan(located, ablated[1].variants, {}, ablated[1].base, {})
    with pytest.raises(UserError, match="data set 'synthetic' has no split 'tset'"):
        run_ablation(plan)
