"""The random streams of a run: every use of randomness has a number of its own.

Everything random is a pure function of (seed, stream, and where in the run), so that a resumed run
needs no state, and no draw depends on another.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn. A number is never given to another use, or old seeds would change."""

    GROUPS = 1  # which group of teachers steps
    VIEWS = 2  # order of the views in an epoch, the same for fresh and for stored ones
    STEP = 3  # torch's randomness in a step: position crops, dropout
    CROP = 4  # the crop of a view
    WINDOW = 5  # attention window of a step
    IMAGES = 6  # order in which images become views
    SHAPE = 7  # resolution and aspect ratio of a step
    DROPPED_TEACHERS = 8
    TOKENS = 9  # patches that a covariance is taken from
    BLOCKS = 10  # order of the blocks of an epoch
    STAGES = 11  # within the samples of a stage of an epoch
    BLOCK_SAMPLES = 12  # within a block
    HUGE = 13  # permutations that are computed place by place
    MIXED_SOURCES = 14  # a seed for each source of a mixture
    DEALS = 15  # whose turn it is in a mixture

    def rng(self, seed: int, *where: int) -> np.random.Generator:
        """A generator for one place of a run, such as a step or a view."""
        return np.random.default_rng((seed, self, *where))

    def number(self, seed: int, *where: int) -> int:
        """A whole number of 64 bits for one place of a run."""
        sequence = np.random.SeedSequence((seed, self, *where))
        return int(sequence.generate_state(1, np.uint64)[0])
