"""Which tokens can continue an item id: what the loss of its tokens runs over, if it is asked to.

Letters: B rows, T target length, V vocabulary, N prefixes of ids, E edges (a prefix and a token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from p5jax.core.errors import UserError
from p5jax.models.t5_config import T5Config
from p5jax.text.vocabulary import Vocabulary

BITS = 32  # of a word of flags
_ALL = np.uint32(2**BITS - 1)


@dataclass(frozen=True, eq=False)
class Children:
    """The prefixes of a catalogue's ids, each with the tokens that follow it, as flat arrays.

    Prefix 0 is the empty one. Of an id the tokens alone are in it, not what ends it.

    - `number` [V] int32: an id token's number, the same for all tokens that are none;
    - `edges` [E] int32, ascending: prefix * (greatest number + 1) + the token's number; `led_to`
      [E] int32: the prefix that is one token longer, 0 where that is a whole id;
    - `flags` [N, V/32] uint32: bit v % 32 of word v // 32 says whether token v may follow;
    - `longest`: the tokens of the longest prefix.
    """

    number: np.ndarray
    edges: np.ndarray
    led_to: np.ndarray
    flags: np.ndarray
    longest: int

    @staticmethod
    def build(ids: Sequence[Sequence[int]], vocabulary: int) -> Children:
        """Make the prefixes of ids, as tokens without an end, in a padded vocabulary.

        UserError for more prefixes than an edge's number, an int32, can tell apart.
        """
        paths = [tuple(tokens) for tokens in ids]
        prefixes: dict[tuple[int, ...], int] = {(): 0}
        for path in paths:
            for length in range(1, len(path)):
                prefixes.setdefault(path[:length], len(prefixes))
        known = sorted({token for path in paths for token in path})
        most = np.iinfo(np.int32).max // (len(known) + 1)
        if len(prefixes) > most:
            raise UserError(
                f"T5Config.likelihood: found {len(prefixes):,} beginnings of item ids, expected at"
                f" most {most:,} for 'children'; ids of fewer levels have fewer"
            )
        number = np.full(vocabulary, len(known), np.int32)
        number[known] = np.arange(len(known))
        flags = np.zeros((len(prefixes), vocabulary // BITS), np.uint32)
        edges: dict[int, int] = {}
        for path in paths:
            for length, token in enumerate(path):
                prefix = prefixes[path[:length]]
                key = prefix * (len(known) + 1) + int(number[token])
                edges[key] = prefixes.get(path[: length + 1], 0)
                flags[prefix, token // BITS] |= np.uint32(1 << token % BITS)
        keys = sorted(edges)
        led_to = np.array([edges[key] for key in keys], np.int32)
        longest = max(map(len, prefixes))
        return Children(number, np.array(keys, np.int32), led_to, flags, longest)

    def among(self, fed: jax.Array, targets: jax.Array) -> jax.Array:
        """Return which tokens each target is one of, as flags: [B, T, V/32] uint32.

        fed, targets [B, T]: what the decoder reads and what it is to say. For a target that
        continues an id they are all that could; for any other, all tokens.
        """
        prefix = jnp.asarray(self.flags)[self._prefixes(fed)]  # [B, T, V/32]
        word = jnp.take_along_axis(prefix, targets[..., None] // BITS, axis=-1)
        continues = word >> (targets[..., None] % BITS).astype(jnp.uint32) & 1
        return jnp.where(continues > 0, prefix, _ALL)

    def _prefixes(self, fed: jax.Array) -> jax.Array:
        """The prefix that has been read at each position: [B, T] int32."""
        edges, led_to = jnp.asarray(self.edges), jnp.asarray(self.led_to)
        number, base = jnp.asarray(self.number)[fed], jnp.max(self.number) + 1
        prefix = jnp.zeros_like(fed)
        # A token tells its level, so it leads on from no prefix but the one it stands behind; the
        # positions need not be walked one by one: each round makes one more level right.
        for _ in range(self.longest):
            before = jnp.pad(prefix, ((0, 0), (1, 0)))[:, :-1]
            key = before * base + number
            at = jnp.minimum(jnp.searchsorted(edges, key), len(edges) - 1)
            prefix = jnp.where(edges[at] == key, led_to[at], 0)
        return prefix


jax.tree_util.register_dataclass(
    Children, data_fields=["number", "edges", "led_to", "flags"], meta_fields=["longest"]
)


def children_of(
    config: T5Config, vocabulary: Vocabulary, item_ids: Sequence[str]
) -> Children | None:
    """Return what the loss of a model's item ids runs over, None for the whole vocabulary.

    UserError for ids that are numbers: their tokens stand in other texts, too.
    """
    if config.likelihood == "vocabulary":
        return None
    if not vocabulary.id_tokens:
        raise UserError(
            "T5Config.likelihood: found 'children' with item ids that are numbers, expected ids of"
            " tokens (token, semantic or collaborative)"
        )
    return Children.build([vocabulary.encode(text) for text in item_ids], vocabulary.padded_size)
