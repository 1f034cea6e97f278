"""Trainings that take hours begin with settings that exist, and share what they can."""

import pytest

from experiments.distillation.run import CAUSE_GROUPS as CAUSES
from experiments.distillation.run import MECHANISM_GROUPS as MECHANISMS
from experiments.encoders.run import GROUPS as ENCODERS
from experiments.fold_runs import Group, kept_name
from experiments.foodmix_runs import RECIPE
from experiments.names.run import GROUPS as NAMES
from experiments.realtime.run import FULL, PERMUTED
from experiments.realtime.run import GROUPS as REALTIME
from experiments.recipe_changes.run import GROUPS as CHANGES
from foodseg.config import load_config

ALL = (ENCODERS, CHANGES, CAUSES | MECHANISMS, NAMES, REALTIME)


@pytest.mark.parametrize("group", [group for groups in ALL for group in groups.values()], ids=lambda group: group.name)
def test_variants_of_a_group_differ_in_how_they_are_scored_alone(group: Group) -> None:
    words = ("vit", "work", "names", "permuted", "random", "pairs", "seen", "larger", "teachers")
    given = [setting.format(**dict.fromkeys(words, "x")) for setting in group.settings]
    trained = load_config(RECIPE, given).config
    for name, settings in group.variants.items():
        config = load_config(RECIPE, [*given, *settings]).config
        assert config.model_copy(update={"eval": trained.eval}) == trained, name
        assert all(setting.startswith("eval.") for setting in settings), name


def test_counts_have_names_of_their_own() -> None:
    for groups in ALL:
        names = [kept_name(name, kind) for group in groups.values() for name in group.variants for kind in ("a", "b")]
        assert len(set(names)) == len(names)


def test_controls_of_the_names_differ_in_the_table_alone() -> None:
    assert set(FULL) < set(REALTIME) and "model.text.table={permuted}" in PERMUTED
    for item in ("m_names", "m_prompts"):
        own, control = (
            [word.format(names="NAMES", permuted="PERMUTED") for word in REALTIME[name].settings]
            for name in (item, f"{item}_permuted")
        )
        assert [word.replace("PERMUTED", "NAMES") for word in control] == own != control
