"""Which random numbers the data and the dropout of a training draw: every one of these streams has its number here.

What is drawn once, before the first step, is not here: the initial weights (`models/build.py`) and the split of a data
set (`prepare/splits.py`).

A generator is seeded with [seed, number, *index], so that no two purposes share numbers, and nothing but the seed and
the index decides them. The seed is the run's or that of one position. A number never changes and is never used again
for something else: earlier runs could not be repeated.

    generator(order.seed, RandomStream.ROW_ORDER, epoch, window)  # of the run's seed
    generator(row_seed, RandomStream.STRONG_VIEW)                 # of the seed of one position
"""

from enum import Enum, unique

import numpy as np


@unique
class RandomStream(Enum):
    """What is drawn: from which seed, and with which number behind it."""

    SHARD_ORDER = ("run", 0)  # at [epoch]: the order of the shards
    ROW_ORDER = ("run", 1)  # at [epoch, window]: the order of the rows within a window
    OVERSAMPLING_OFFSET = ("run", 2)  # at [epoch]: where systematic sampling starts to count
    AUGMENTATION = ("run", 3)  # at [position]: the seed of that position; its crop uses it without a number
    PASTE_PARTNER = ("run", 4)  # at [position]: whether something is pasted there, and from which row
    STRONG_VIEW = ("position", 1)  # colour and blur of the view that the student sees
    CONDITIONING = ("position", 2)  # the conditioning classes of the student
    COPY_PASTE = ("position", 3)  # the partner's crop, and the ingredients that are taken from it
    CUTMIX = ("position", 4)  # the box of an image without mask that is moved, and where to
    REGION = ("position", 5)  # which region of the image, the margin of its box, whether it is flipped

    @property
    def number(self) -> int:
        """What follows the seed."""
        return self.value[1]


def generator(seed: int, stream: RandomStream, *index: int) -> np.random.Generator:
    """Returns the generator of a stream, at an index such as an epoch or a position where the stream has one.

    Args:
        seed: at least 0; of the run or of the position, as the stream says.
    """
    return np.random.default_rng([seed, stream.number, *index])


def position_seed(seed: int, position: int) -> int:
    """Returns the 63-bit augmentation seed of one position, of a run with this seed."""
    sequence = np.random.SeedSequence([seed, RandomStream.AUGMENTATION.number, position])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Returns what torch is seeded with before one update, for dropout: 63 bits, another one for each rank.

    It is the position seed, in a run of seed + 1, of the position step * 4096 + rank; up to 4096 ranks do not meet.
    """
    return position_seed(seed + 1, step * 4096 + rank)
