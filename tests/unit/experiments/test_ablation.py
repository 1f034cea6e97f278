"""The variants that are compared with those of other experiments."""

from experiments.ablation.run import CANDIDATES, SCOUTS, _scout_job
from experiments.foodmix_runs import scout_job
from experiments.variants import SCOUTED_VARIANTS


def test_the_scouts_are_the_trainings_of_the_recipe_experiment() -> None:
    """Else they would be trained again, and `winner` would compare others than it says."""
    for variant, scout in SCOUTS.items():
        assert _scout_job(variant) == scout_job(scout, SCOUTED_VARIANTS[scout])
    assert set(CANDIDATES) >= set(SCOUTS)
