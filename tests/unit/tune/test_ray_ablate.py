"""What becomes of an error in the scores of one training that several variants share."""

from pathlib import Path

import pytest

from foodseg.config import ExperimentConfig
from foodseg.config.load import with_settings
from foodseg.errors import RetryLater, UserError
from foodseg.tune import ray_ablate
from foodseg.tune.ablation_runs import Score
from foodseg.tune.ray_ablate import Target, _score_once, _score_run

SCORES = [Score(variant, 0, 1, "plain") for variant in ("plain", "bad", "good")] + [Score("other", 0, 1, "other")]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """The variants that were scored, in turn; the parameter: which of them fail, and how."""
    found: list[str] = []

    def once(target: Target, score: Score, config: ExperimentConfig, workers: int) -> None:
        found.append(score.variant)
        if score.variant in request.param:
            raise request.param[score.variant]

    monkeypatch.setattr(ray_ablate, "_score_once", once)
    return found


def score() -> None:
    target = Target("runs/ablation", "", None, "student", None)
    _score_run("plain-seed0-fold1", ExperimentConfig(), target=target, scores=SCORES)


@pytest.mark.parametrize("asked", [{}], indirect=True)
def test_all_variants_of_a_training_are_scored(asked: list[str]) -> None:
    score()
    assert asked == ["plain", "bad", "good"]


@pytest.mark.parametrize("asked", [{"bad": UserError("a window of 32")}], indirect=True)
def test_the_others_are_scored_and_the_variant_is_named(asked: list[str]) -> None:
    with pytest.raises(UserError, match=r"^the variant 'bad' could not be scored: a window of 32"):
        score()
    assert asked == ["plain", "bad", "good"]


@pytest.mark.parametrize("asked", [{"plain": RetryLater("no answer")}], indirect=True)
def test_storage_that_is_away_interrupts_the_trial(asked: list[str]) -> None:
    with pytest.raises(RetryLater, match=r"^no answer$"):
        score()


def test_a_run_whose_checkpoints_are_gone(tmp_path: Path) -> None:
    target = Target(str(tmp_path), "", None, "student", None)
    config = with_settings(ExperimentConfig(), {"run.uri": str(tmp_path / "runs" / "plain-seed0-fold1")})
    with pytest.raises(UserError, match=r"plain-seed0-fold1 holds no checkpoint any more, so it cannot be scored"):
        _score_once(target, SCORES[0], config, workers=0)
