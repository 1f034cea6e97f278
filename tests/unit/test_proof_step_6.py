"""The parts of proof/step_6.py that need no training: orders, scores at a rung, variants as settings."""

import pytest

from proof import step_6


def test_rank_correlation_by_hand() -> None:
    # ranks 0 1 2 3 and 1 0 2 3: 1 - 6 x (1 + 1) / (4 x 15)
    assert step_6._rank_correlation([1.0, 2.0, 3.0, 4.0], [0.2, 0.1, 0.3, 0.4]) == pytest.approx(0.8)
    assert step_6._rank_correlation([1.0, 2.0, 3.0], [9.0, 8.0, 7.0]) == pytest.approx(-1)


def test_the_score_at_a_rung_is_the_first_one_from_there_on() -> None:
    steps = step_6.SWEEP_STEPS
    row = {"curve_step": [steps // 10, steps // 5, steps], "curve_miou": [0.1, 0.2, 0.5]}
    assert step_6._at_share(row, 0.2) == 0.2 and step_6._at_share(row, 0.21) == 0.5


def test_variants_become_settings() -> None:
    words = ("model.fusion_stride=8", "model.text.table={names}", "model.ingredient_head=true")
    made = {"names": "names.safetensors"}
    assert step_6._settings(words, made) == {
        "model.fusion_stride": 8, "model.text.table": "names.safetensors", "model.ingredient_head": True
    }  # fmt: skip


def test_the_scouts_of_step_3_are_the_same_trainings() -> None:
    """Else they would be trained again, and `winner` would compare others than it says."""
    from proof import step_3

    for variant, scout in step_6.SCOUTS.items():
        assert step_6._scout_job(variant) == step_3.scout_job(scout, step_3.SCOUTED[scout])
    assert set(step_6.CANDIDATES) >= set(step_6.SCOUTS)
