"""Searches: what they ask first, what they ask again after a restart, what they learn."""

import pytest

from foodseg.checkpoint.history import Validation
from foodseg.config.sweep import SweepConfig
from foodseg.tune.search import build_search
from foodseg.tune.space import Values, parse_space
from foodseg.tune.trials import Trial, TrialReport

SPACE = parse_space({
    "kind": {"options": {"a": {}, "b": {"loss.dice": 0.5}}},
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
    "loss.features": {"uniform": [0, 1], "when": {"kind": "b"}},
})  # fmt: skip


def ended(number: int, values: Values, score: float | None, status: str = "finished") -> Trial:
    reports = () if score is None else (TrialReport(Validation(10, score, 0.5, 0.4, score), 1.0, 1.0),)
    return Trial(f"t{number}", number, values, {}, status, reports=reports)  # type: ignore[arg-type]


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_a_resumed_sweep_asks_for_the_same_again(searcher: str) -> None:
    config = SweepConfig(searcher=searcher, seed=3)  # type: ignore[arg-type]
    first, second = build_search(config, SPACE), build_search(config, SPACE)
    values = [first.ask(number) for number in range(6)]
    assert [second.ask(number, known) for number, known in enumerate(values)] == values
    assert len({tuple(v.items()) for v in values if v is not None}) == 6
    for search in (first, second):
        for number, known in enumerate(values):
            assert known is not None
            search.tell(ended(number, known, 0.1 * number))
        assert search.ask(6) not in values


def test_tpe_draws_nothing_twice_after_its_random_trials() -> None:
    """The sampler of a resumed sweep has the same seed as that of the first call."""
    config = SweepConfig(searcher="tpe", seed=3)
    first, second = build_search(config, SPACE), build_search(config, SPACE)
    values = [first.ask(number) for number in range(14)]
    for number, known in enumerate(values[:12]):
        second.ask(number, known)
        second.tell(ended(number, known or {}, None, "failed"))  # so that it continues at random
    assert all(second.ask(number) not in values for number in range(12, 30))


def test_a_result_that_is_received_twice_counts_once() -> None:
    once, twice = (build_search(SweepConfig(searcher="tpe", seed=3), SPACE) for _ in range(2))
    for number in range(15):
        for search, times in ((once, 1), (twice, 2)):
            values = search.ask(number)
            for _ in range(times):
                search.tell(ended(number, values or {}, 0.01 * (number % 7)))
    assert [once.ask(number) for number in range(15, 20)] == [twice.ask(number) for number in range(15, 20)]


def test_random_values_depend_on_seed_and_number_alone() -> None:
    config = SweepConfig(searcher="random", seed=3)
    assert build_search(config, SPACE).ask(5) == build_search(config, SPACE).ask(5)
    other = SweepConfig(searcher="random", seed=4)
    assert build_search(other, SPACE).ask(5) != build_search(config, SPACE).ask(5)


def test_a_grid_ends() -> None:
    space = parse_space({"loss.dice": {"choice": [0, 1]}, "train.micro_batch": {"int": [1, 2]}})
    search = build_search(SweepConfig(searcher="grid", trials=None), space)
    assert [search.ask(number) for number in (3, 4)] == [{"loss.dice": "1", "train.micro_batch": 2}, None]
    few = build_search(SweepConfig(searcher="grid", trials=2), space)
    assert few.ask(1) is not None and few.ask(2) is None


def test_tpe_turns_to_what_was_good() -> None:
    """Kind b is good and everything else does not matter; over five seeds chance would ask for it 50 times of 100."""
    asked = []
    for seed in range(5):
        search = build_search(SweepConfig(searcher="tpe", seed=seed), SPACE)
        for number in range(40):
            values = search.ask(number)
            assert values is not None
            good = values["kind"] == "b"
            asked += [good] if number >= 20 else []
            if number % 10 == 9:
                search.tell(ended(number, values, None, "failed"))
            else:
                search.tell(ended(number, values, 0.9 if good else 0.1, "finished" if good else "stopped"))
    assert sum(asked) >= 65


def test_tpe_with_two_objectives() -> None:
    """All have the same score, and kind b half of the parameters; chance would ask for it 50 times of 100."""
    asked = []
    for seed in range(5):
        search = build_search(SweepConfig(searcher="tpe", against="parameters", seed=seed), SPACE)
        for number in range(40):
            values = search.ask(number)
            assert values is not None
            small = values["kind"] == "b"
            asked += [small] if number >= 20 else []
            trial = ended(number, values, 0.5, "stopped" if number % 3 else "finished")
            search.tell(Trial(**{**vars(trial), "costs": {"parameters": 1e6 if small else 2e6}}))
    assert sum(asked) >= 65
