"""In which order training sees the examples, and the random numbers that each of them gets.

Both are functions of the seed and of a position: the number of examples that the training has seen
before. Nothing has to be gone through to get there, so that a resumed training goes on exactly where it
was, and any number of workers or threads sees the same.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Examples that lie beside one another in a shard and are read soon after one another: about 800 KB of
# photos, which disks and networks read many times faster than single ones.
_BLOCK = 8
# Examples that are shuffled together: of so many different blocks that data sorted by label mixes.
_WINDOW = 4096
# Shards that blocks are drawn from at a time, at least: the first step needs to know where the records of
# these begin, not of a thousand shards.
_SHARDS_AT_ONCE = 32
# Positions that share one stream of random numbers.
_DRAW_BLOCK = 256
# What the streams are for: equal seeds must not give equal numbers.
_ORDER, _DRAWS = 0, 1


class ExampleOrder:
    """The order of the examples in every epoch.

    Shards are permuted and taken some at a time; of these, blocks of neighbouring examples are permuted;
    and windows of these blocks are shuffled whole. So data sets of up to a window, a few thousand
    examples, are shuffled completely. (Source of shuffling blocks, then examples in a buffer: Xu et al.,
    "In-Database Machine Learning with CorgiPile", 2022, which shows that it trains as well as a full
    shuffle, for data sorted by label, too.)

    Args:
        shard_examples: How many examples each shard holds.
        seed: Of the order.
        block: How many neighbouring examples are read together; 1 shuffles everything completely.
    """

    def __init__(self, shard_examples: Sequence[int], seed: int, *, block: int = _BLOCK) -> None:
        self._block = block
        self._counts = np.array(shard_examples, np.int64)
        self._firsts = np.cumsum(self._counts) - self._counts
        self._seed = seed
        self._examples = int(self._counts.sum())
        # A batch may reach into the next epoch.
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def examples(self, first: int, count: int) -> NDArray[np.int64]:
        """Returns the numbers of the examples at ``count`` positions from ``first`` on.

        Args:
            first: A position: 0 is the first example of the first epoch.
            count: How many.

        Returns:
            int64 [count], each 0..examples-1, counted through the shards in order.
        """
        parts = []
        while count:
            epoch, start = divmod(first, self._examples)
            parts.append(self._epoch(epoch)[start : start + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _make_epoch(self, epoch: int) -> NDArray[np.int64]:
        draw = np.random.default_rng((self._seed, _ORDER, epoch))
        shards = draw.permutation(len(self._counts))
        # About equal ones: a few shards left over would be of a few labels only, in sorted data.
        groups = np.array_split(shards, max(1, len(shards) // _SHARDS_AT_ONCE))
        examples = np.concatenate([self._blocks_shuffled(group, draw) for group in groups])
        for start in range(0, len(examples), _WINDOW):
            draw.shuffle(examples[start : start + _WINDOW])
        return examples

    def _blocks_shuffled(self, shards: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
        """Returns the examples of these shards, their blocks in a random order."""
        blocks = np.concatenate(
            [np.arange(0, self._counts[s], self._block) + self._firsts[s] for s in shards]
        )
        ends = np.concatenate(
            [np.full(-(-self._counts[s] // self._block), self._firsts[s] + self._counts[s]) for s in shards]
        )
        order = draw.permutation(len(blocks))
        numbers = blocks[order, None] + np.arange(self._block)
        return numbers[numbers < ends[order, None]]


def random_draws(seed: int, first: int, count: int, width: int) -> NDArray[np.float32]:
    """Returns the random numbers of ``count`` positions from ``first`` on.

    Args:
        seed: Of the numbers.
        first: A position, see above.
        count: How many.
        width: How many numbers each position gets; another width, other numbers.

    Returns:
        float32 [count, width], uniform in [0, 1).
    """
    first_block, last_block = first // _DRAW_BLOCK, (first + count - 1) // _DRAW_BLOCK
    drawn = np.concatenate(
        [
            np.random.default_rng((seed, _DRAWS, block)).random((_DRAW_BLOCK, width), np.float32)
            for block in range(first_block, last_block + 1)
        ]
    )
    start = first - first_block * _DRAW_BLOCK
    return drawn[start : start + count]
