"""Which values the next trial takes. A search is asked by number, so that a resumed sweep asks for the same again."""

import itertools
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from foodseg.config.sweep import Against, SweepConfig
from foodseg.errors import UserError
from foodseg.tune.space import RandomSource, Space, Values
from foodseg.tune.trials import Trial

RANDOM_FIRST = 10  # trials of TPE that are drawn at random


class Search(Protocol):
    """Is asked for the trials 0, 1, 2, ... in turn, and receives the result of each that ended."""

    def ask(self, number: int, known: Values | None = None) -> Values | None:
        """Returns the values of a trial; None where there are no more.

        Args:
            known: what this trial took before the sweep was interrupted; it takes the same again.
        """
        ...

    def tell(self, trial: Trial) -> None:
        """Receives the result of a trial that it was asked for."""
        ...


def build_search(config: SweepConfig, space: Space) -> Search:
    """Builds the search that `config.searcher` names.

    Raises:
        UserError: a grid over a range of numbers; TPE without Optuna installed.
    """
    if config.searcher == "random":
        return RandomSearch(space, config.seed)
    if config.searcher == "grid":
        return ListedSearch(itertools.islice(space.grid(), config.trials))
    return TpeSearch(space, config.seed, config.against)


class RandomSearch:
    """Draws that depend on the seed and the number alone."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed

    def ask(self, number: int, known: Values | None = None) -> Values | None:
        return known or self._space.draw(RandomSource(np.random.default_rng([self._seed, number])))

    def tell(self, trial: Trial) -> None:
        pass


class ListedSearch:
    """A list, in its order: a grid, or the variants of an ablation."""

    def __init__(self, listed: Iterable[Values]) -> None:
        self._listed = list(listed)

    def ask(self, number: int, known: Values | None = None) -> Values | None:
        return self._listed[number] if number < len(self._listed) else None

    def tell(self, trial: Trial) -> None:
        pass


class TpeSearch:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011).

    The first ten trials are random. Trials that were stopped early count as worse than those that went further.
    """

    def __init__(self, space: Space, seed: int, against: Against) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                "sweep.searcher = tpe needs Optuna: pip install 'foodseg[tune]', or set sweep.searcher=random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._against = space, against
        self._states = optuna.trial.TrialState
        self._sampler, self._seed = optuna.samplers.TPESampler, seed
        self._study = optuna.create_study(
            directions=["maximize"] if against == "none" else ["maximize", "minimize"],
            sampler=self._sampler(seed=seed, n_startup_trials=RANDOM_FIRST),
        )
        self._asked: dict[int, Any] = {}

    def ask(self, number: int, known: Values | None = None) -> Values | None:
        if known is not None:
            # a sampler with the same seed would draw the same values again
            self._study.sampler = self._sampler(seed=self._seed + number + 1, n_startup_trials=RANDOM_FIRST)
        elif number < RANDOM_FIRST:
            known = RandomSearch(self._space, self._seed).ask(number)
        if known is not None:
            self._study.enqueue_trial(known)
        self._asked[number] = self._study.ask()
        return self._space.draw(self._asked[number])

    def tell(self, trial: Trial) -> None:
        asked = self._asked.pop(trial.number, None)
        if asked is None:  # known already: Tune ends a trial twice where recording it failed
            return
        if trial.score is None or trial.status == "failed":
            self._study.tell(asked, state=self._states.FAIL)
        elif self._against != "none":  # Optuna does not support early stopping with two objectives
            self._study.tell(asked, [trial.score, trial.costs[self._against]])
        elif trial.status == "stopped":
            asked.report(trial.score, trial.reports[-1].step)
            self._study.tell(asked, state=self._states.PRUNED)
        else:
            self._study.tell(asked, trial.score)
