"""Which trainings an ablation needs, and which of its scores share one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from foodseg.tune.ablation_runs import planned_scores, run_settings, trainings
from foodseg.tune.space import configured
from foodseg.tune.sweep_files import AblationPlan, read_ablation

HEAD = {"loss.dice": 0.5, "model.ingredient_head": True, "loss.ingredients": 0.2}
PREDICTED = {"eval.ingredients": "predicted", "eval.restrict": "soft"}
VARIANTS = {
    "A": {},
    "A large": {"eval.longest_side": None},
    "B": HEAD,
    "B mirrored": {**HEAD, **PREDICTED, "eval.flip": True, "eval.scales": [0.75, 1]},
    "peer": {"predictions": "maps/{seed}-{fold}"},
}


def plan(tmp_path: Path, variants: dict[str, Any], **ablation: Any) -> AblationPlan:
    tree = {"ablation": ablation, "variants": variants, "config": {"data": {"val_split": None}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return read_ablation(str(tmp_path / "a.yaml"), [])


def test_variants_that_differ_in_eval_share_a_training(tmp_path: Path) -> None:
    scores = planned_scores(plan(tmp_path, VARIANTS, folds=2, seeds=[3]), [])
    mirrored = ("eval.scales=[0.75, 1.0]", "eval.flip=true", "eval.ingredients=predicted", "eval.restrict=soft")
    assert [(score.name, score.run, score.overrides) for score in scores if score.fold == 1] == [
        ("a-seed3-fold1", "a-seed3-fold1", ()),
        ("a-large-seed3-fold1", "a-seed3-fold1", ("eval.longest_side=null",)),
        ("b-seed3-fold1", "b-seed3-fold1", ()),
        ("b-mirrored-seed3-fold1", "b-seed3-fold1", mirrored),
        ("peer-seed3-fold1", None, ()),
    ]
    assert [score.name for score in scores][:3] == ["a-seed3-fold0", "a-seed3-fold1", "a-large-seed3-fold0"]
    assert trainings(scores) == [
        {"variant": variant, "seed": 3, "fold": fold} for variant in ("A", "B") for fold in (0, 1)
    ]
    assert scores[-1].predictions == str(Path("maps/3-1").absolute())


def test_without_folds_too(tmp_path: Path) -> None:
    variants = {name: settings for name, settings in VARIANTS.items() if name != "peer"}
    scores = planned_scores(plan(tmp_path, variants, seeds=[0, 1]), [])
    assert trainings(scores) == [{"variant": variant, "seed": seed} for seed in (0, 1) for variant in ("A", "B")]
    assert [score.name for score in scores][:3] == ["a-seed0", "a-large-seed0", "b-seed0"]


def test_a_training_that_has_begun_is_kept(tmp_path: Path) -> None:
    variants = {"mirrored": {"eval.flip": True}, "large": {"eval.longest_side": None}, "plain": {}}
    own = plan(tmp_path, variants, folds=2)
    # an earlier version has trained `plain` apart in fold 0, and this one was begun as `large` in fold 1
    scores = {score.name: score for score in planned_scores(own, ["large-seed0-fold1", "plain-seed0-fold0"])}
    runs = {name: (score.run, score.overrides) for name, score in scores.items()}
    assert runs["mirrored-seed0-fold0"] == ("plain-seed0-fold0", ("eval.flip=true",))
    assert runs["plain-seed0-fold0"] == ("plain-seed0-fold0", ())
    assert runs["plain-seed0-fold1"] == ("large-seed0-fold1", ("eval.longest_side=512",))
    both = planned_scores(own, ["mirrored-seed0-fold0", "plain-seed0-fold0"])
    assert {score.name: score.run for score in both if score.fold == 0} == {
        "mirrored-seed0-fold0": "mirrored-seed0-fold0",
        "large-seed0-fold0": "mirrored-seed0-fold0",
        "plain-seed0-fold0": "plain-seed0-fold0",
    }


@pytest.mark.parametrize(("seed", "fold", "expected"), [(0, 0, 0), (0, 4, 4), (2, 3, 13)])
def test_no_two_runs_of_a_variant_have_one_seed(tmp_path: Path, seed: int, fold: int, expected: int) -> None:
    own = plan(tmp_path, VARIANTS, folds=5)
    config = configured(own.base, run_settings(own, {"variant": "B", "seed": seed, "fold": fold}))
    assert (config.train.seed, config.data.folds, config.data.held_out) == (expected, 5, fold)
    assert config.loss.dice == 0.5
    assert "loss.dice" not in run_settings(own, {"seed": seed, "fold": fold})
