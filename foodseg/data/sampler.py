"""The training order: which row is at which position. A pure function of (seed, position).

Positions 0, 1, 2, ... run through the whole training, epoch after epoch; update number s consumes the positions
s x global_batch .. (s + 1) x global_batch - 1. Nothing else affects the order: neither the number of workers,
nor their speed, nor where a run was resumed.

Within an epoch the shards come in a seeded order, and their rows are shuffled within seeded windows of at least
`window` rows. Window borders are at multiples of `unit` on the line of positions, and `unit` is a multiple of the
global batch: so a reader that takes one unit at a time reads every window exactly once, except those at the ends of an
epoch.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from foodseg.config.data import WINDOW
from foodseg.data.rng import RandomStream, generator, position_seed

_PARTNERS_TRIED = 32  # until one of another source and with ingredients is found


class TrainingOrder:
    """Maps positions to (epoch, row).

    Args:
        shard_rows: rows of each shard, in the order of the manifest; row numbers count through them.
        seed: the run's seed.
        global_batch: images in one update.
        repeats: (M,) float > 0, expected draws of each of the M rows that are drawn, per epoch (below 1: in some epochs
            only), with a sum of at least 1; None = each row once.
        window: positions among which rows are shuffled, at least.
        kept: (M,) int64, the rows that are drawn, ascending; None = all N.
        paste: probability that a position has a paste partner.
        sources: (N,) integers, the source of each row; needed for `paste`.
        pastable: (N,) bool, the drawn rows with an ingredient that could be pasted; needed for `paste`.
    """

    def __init__(
        self,
        shard_rows: Sequence[int],
        seed: int,
        global_batch: int,
        repeats: np.ndarray | None = None,
        *,
        window: int = WINDOW,
        kept: np.ndarray | None = None,
        paste: float = 0.0,
        sources: np.ndarray | None = None,
        pastable: np.ndarray | None = None,
    ) -> None:
        self.shard_starts = np.concatenate([[0], np.cumsum(shard_rows)]).astype(np.int64)
        self.seed = seed
        self.global_batch = global_batch
        self.window = window
        self.unit = global_batch * -(-window // global_batch)
        self.kept = kept
        if repeats is None:
            self._repeats = None
            self.epoch_length = int(self.shard_starts[-1]) if kept is None else len(kept)
        else:
            # scaled so that every epoch has the same whole number of draws: position // epoch_length is the epoch
            self.epoch_length = round(float(repeats.sum()))
            self._repeats = repeats * (self.epoch_length / repeats.sum())
        self.paste = paste
        self._sources, self._pastable = sources, pastable
        self._several_sources = sources is not None and len(np.unique(sources[pastable])) > 1
        self._epochs: dict[int, np.ndarray] = {}

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (epoch, row), two (stop - start,) int64 arrays, for the positions start..stop-1."""
        return self._rows_at(np.arange(start, stop, dtype=np.int64))

    def partners(self, start: int, stop: int) -> np.ndarray:
        """Returns (stop - start,) int64, the row whose regions are pasted in at each position; -1 = none.

        A partner has an ingredient; it comes from the same unit of positions, whose rows are read anyway, and from
        another source than the position's own row where several sources have partners.
        """
        partners = np.full(stop - start, -1, np.int64)
        if self.paste == 0:
            return partners
        assert self._sources is not None and self._pastable is not None
        own = self.rows(start, stop)[1]
        for index, position in enumerate(range(start, stop)):
            rng = generator(self.seed, RandomStream.PASTE_PARTNER, position)
            if rng.uniform() >= self.paste:
                continue
            candidates = position // self.unit * self.unit + rng.integers(self.unit, size=_PARTNERS_TRIED)
            rows = self._rows_at(candidates)[1]
            rows = rows[self._pastable[rows]]
            if self._several_sources:
                rows = rows[self._sources[rows] != self._sources[own[index]]]
            if len(rows):
                partners[index] = rows[0]
        return partners

    def _rows_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs = positions // self.epoch_length
        rows = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._epoch_rows(int(epoch))[positions[here] - epoch * self.epoch_length]
        return epochs, rows

    def seeds(self, start: int, stop: int) -> np.ndarray:
        """Returns (stop - start,) int64 augmentation seeds, one per position."""
        return np.array([position_seed(self.seed, position) for position in range(start, stop)], dtype=np.int64)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_epochs": {}}  # each process shuffles on its own instead of receiving the result

    def _epoch_rows(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            nearby = 4 + self.unit // self.epoch_length  # including the epochs that paste partners come from
            self._epochs = {e: rows for e, rows in self._epochs.items() if abs(e - epoch) < nearby}
            self._epochs[epoch] = self._shuffled_epoch(epoch)
        return self._epochs[epoch]

    def _shuffled_epoch(self, epoch: int) -> np.ndarray:
        shards = generator(self.seed, RandomStream.SHARD_ORDER, epoch).permutation(len(self.shard_starts) - 1)
        line = np.concatenate([np.arange(self.shard_starts[s], self.shard_starts[s + 1]) for s in shards])
        if self._repeats is not None:
            line = np.repeat(line, self._draws(epoch)[line])
        elif self.kept is not None:
            line = line[np.isin(line, self.kept)]
        borders = self._window_borders(epoch)
        for index, (left, right) in enumerate(pairwise(borders)):
            generator(self.seed, RandomStream.ROW_ORDER, epoch, index).shuffle(line[left:right])
        return line

    def _draws(self, epoch: int) -> np.ndarray:
        """Systematic sampling: (N,) whole draws per row that sum to epoch_length and have `repeats` as their mean."""
        assert self._repeats is not None
        offset = generator(self.seed, RandomStream.OVERSAMPLING_OFFSET, epoch).uniform()
        marks = np.floor(np.concatenate([[0.0], np.cumsum(self._repeats)]) + offset)
        marks[-1] = self.epoch_length  # the sum is whole up to rounding, and no mark may exceed it
        marks = np.minimum(marks, self.epoch_length)
        draws = np.diff(marks).astype(np.int64)
        if self.kept is None:
            return draws
        # filtered, not given a weight of 0: the last mark above is forced, and could draw such a row
        of_all = np.zeros(self.shard_starts[-1], np.int64)
        of_all[self.kept] = draws
        return of_all

    def _window_borders(self, epoch: int) -> list[int]:
        """Offsets within the epoch; windows shorter than `window` at its ends are merged with their neighbour."""
        start = epoch * self.epoch_length
        first = -(-start // self.unit) * self.unit - start
        inner = [offset for offset in range(first, self.epoch_length, self.unit) if offset > 0]
        inner = [offset for offset in inner if offset >= self.window and self.epoch_length - offset >= self.window]
        return [0, *inner, self.epoch_length]


def repeat_factors(
    ingredients: Sequence[Sequence[int]], labelled: int, threshold: float, cap: float
) -> np.ndarray | None:
    """Repeat-factor sampling (Gupta et al., LVIS, 2019): r(row) = max over its classes of sqrt(threshold / share).

    Args:
        ingredients: for each row the class ids in it; none for a row without a mask.
        labelled: number of rows with a mask: shares are of these: the content of the others is unknown.
        threshold: share of the labelled rows below which a class is drawn more often; 0 switches it off.
        cap: largest factor.

    Returns:
        (N,) float64 in [1, cap], or None when switched off.
    """
    if threshold == 0:
        return None
    rows_with: dict[int, int] = {}
    for ids in ingredients:
        for index in set(ids):
            rows_with[index] = rows_with.get(index, 0) + 1
    factor = {index: max(1.0, (threshold * labelled / count) ** 0.5) for index, count in rows_with.items()}
    return np.array([min(cap, max((factor[index] for index in ids), default=1.0)) for ids in ingredients])


def rank_blocks(
    start_step: int, stop_step: int, global_batch: int, world_size: int, rows_per_block: int = 64
) -> list[list[range]]:
    """Lays positions out so that dealing blocks to the ranks in turn gives each rank its rows of each step, in order.

    A block is one rank's positions for S consecutive steps. S is chosen for blocks of at least `rows_per_block` rows;
    only the last S steps may form shorter blocks.

    Returns:
        Blocks in the order in which they are dealt (rank 0, 1, ..., rank 0, ...), each a list of one range per step.
    """
    assert global_batch % world_size == 0, (global_batch, world_size)
    share = global_batch // world_size
    steps_per_block = -(-rows_per_block // share)
    blocks = []
    for first in range(start_step, stop_step, steps_per_block):
        steps = range(first, min(first + steps_per_block, stop_step))
        for rank in range(world_size):
            left = [step * global_batch + rank * share for step in steps]
            blocks.append([range(position, position + share) for position in left])
    return blocks
