"""The order in which training sees the examples, and the random numbers of each.

Both are functions of the seed and the position, the number of examples seen before, and any position can be
computed directly. A resumed training run therefore continues exactly where it stopped, and the number of
workers and threads has no influence.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Neighbouring examples of a shard that are read within the same window: about 800 KB of photos, which disks
# and networks read many times faster than single ones.
BLOCK = 8
# Examples that are shuffled together: of so many different blocks that data sorted by label is mixed.
_WINDOW = 4096
# Minimum number of shards that blocks are drawn from at a time. The first step needs the record offsets of
# these, not of a thousand shards.
_SHARDS_AT_ONCE = 32
# Positions that share one stream of random numbers.
_DRAW_BLOCK = 256
# Stream identifiers: the order and the draws must differ although their seed is the same.
_ORDER, _DRAWS = 0, 1


class ExampleOrder:
    """The order of the examples in every epoch.

    The shards are permuted and divided into groups; within a group, blocks of neighboring examples are
    permuted; then the examples are shuffled within windows. Data sets of up to a window, a few thousand
    examples, are thus shuffled completely. (Source of shuffling blocks, then examples in a buffer: Xu et al.,
    "In-Database Machine Learning with CorgiPile", 2022, which shows that it trains as well as a full
    shuffle, even for data sorted by label.)

    Args:
        shard_examples: Number of examples in each shard.
        seed: Random seed.
        block: Number of neighboring examples that are read together; 1 shuffles everything completely.
    """

    def __init__(self, shard_examples: Sequence[int], seed: int, *, block: int = BLOCK) -> None:
        self._block = block
        self._counts = np.array(shard_examples, np.int64)
        self._firsts = np.cumsum(self._counts) - self._counts
        self._seed = seed
        self._examples = int(self._counts.sum())
        # A batch may extend into the next epoch.
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def examples(self, first: int, count: int) -> NDArray[np.int64]:
        """Returns the indices of the examples at ``count`` positions from ``first`` on.

        Args:
            first: Position; 0 is the first example of the first epoch.
            count: Number of positions.

        Returns:
            int64 [count], each 0..examples-1, numbered through the shards in order.
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
        # Groups of about equal size: in sorted data, a small last group would hold only a few labels.
        groups = np.array_split(shards, max(1, len(shards) // _SHARDS_AT_ONCE))
        examples = np.concatenate([self._shuffle_blocks(group, draw) for group in groups])
        for start in range(0, len(examples), _WINDOW):
            draw.shuffle(examples[start : start + _WINDOW])
        return examples

    def _shuffle_blocks(self, shards: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
        """Returns the examples of these shards with their blocks in random order."""
        blocks = np.concatenate(
            [np.arange(0, self._counts[s], self._block) + self._firsts[s] for s in shards]
        )
        ends = np.concatenate(
            [np.full(-(-self._counts[s] // self._block), self._firsts[s] + self._counts[s]) for s in shards]
        )
        order = draw.permutation(len(blocks))
        indices = blocks[order, None] + np.arange(self._block)
        return indices[indices < ends[order, None]]


def random_draws(seed: int, first: int, count: int, width: int) -> NDArray[np.float32]:
    """Returns the random numbers of ``count`` positions from ``first`` on.

    Args:
        seed: Random seed.
        first: Position, as in ``ExampleOrder.examples``.
        count: Number of positions.
        width: Random numbers per position. The numbers depend on it.

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
