"""The numbers of all random streams of a training.

A generator is seeded with [seed, stream, *index], so that different purposes never share random numbers, which depend
on the seed and the index alone. There are two kinds of seed, that of the run and that of one position, and so two lists
of streams. A number never changes and is never reused for another purpose: else earlier runs could not be repeated.

    generator(order.seed, RandomStream.ROW_ORDER, epoch, window)  # of the run's seed
    generator(row_seed, PositionStream.STRONG_VIEW)               # of the seed of one position
"""

from enum import IntEnum, unique

import numpy as np


@unique
class RandomStream(IntEnum):
    """What is drawn from the seed of a run."""

    SHARD_ORDER = 0  # at [epoch]: the order of the shards
    ROW_ORDER = 1  # at [epoch, window]: the order of the rows within a window
    OVERSAMPLING_OFFSET = 2  # at [epoch]: the offset of systematic sampling
    AUGMENTATION = 3  # at [position]: the seed of that position, which `PositionStream` is drawn from
    PASTE_PARTNER = 4  # at [position]: whether something is pasted there, and from which row


@unique
class PositionStream(IntEnum):
    """What is drawn from the seed of one position; its crop uses that seed itself, without a stream number."""

    STRONG_VIEW = 1  # colour and blur of the view that the student sees
    CONDITIONING = 2  # the conditioning classes of the student
    COPY_PASTE = 3  # the partner's crop, and the ingredients that are taken from it


def generator(seed: int, stream: RandomStream | PositionStream, *index: int) -> np.random.Generator:
    """Returns the generator of a stream.

    Args:
        seed: at least 0; of the run for a `RandomStream`, of the position for a `PositionStream`.
        index: such as the epoch or the position; empty for a `PositionStream`.
    """
    return np.random.default_rng([seed, stream, *index])


def position_seed(seed: int, position: int) -> int:
    """Returns the 63-bit augmentation seed of one position, of a run with this seed."""
    sequence = np.random.SeedSequence([seed, RandomStream.AUGMENTATION, position])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
