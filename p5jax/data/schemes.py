"""The schemes by which items are named in prompts; see p5jax.data.item_ids, which makes the ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p5jax.core.errors import UserError, nearest


@dataclass(frozen=True)
class Scheme:
    """One scheme of item ids.

    function: "module:function" from an `IdSource` to one unique text for each item. leaky: ids may
    have been made from held-out interactions; users keep the source's order then, too. in_tokens:
    ids are written in id tokens; otherwise they are decimal numbers. joined: "module:function" from
    `NewItems` to one more unique text for each item that joins the catalogue later, "" where only
    the source can name one.
    """

    function: str
    joined: str = ""
    leaky: bool = False
    in_tokens: bool = False


SCHEMES: Mapping[str, Scheme] = {
    "random": Scheme("p5jax.data.item_ids:random_ids", "p5jax.data.new_ids:next_numbers"),
    "sequential": Scheme("p5jax.data.item_ids:sequential_ids", "p5jax.data.new_ids:next_numbers"),
    "collaborative": Scheme(
        "p5jax.data.item_ids:collaborative_ids", "p5jax.data.new_ids:next_leaves", in_tokens=True
    ),
    "semantic": Scheme(
        "p5jax.data.semantic_ids:semantic_ids", "p5jax.data.new_ids:nearest_leaves", in_tokens=True
    ),
    "token": Scheme(
        "p5jax.data.item_ids:token_ids", "p5jax.data.new_ids:next_tokens", in_tokens=True
    ),
    "released": Scheme("p5jax.data.item_ids:released_ids", leaky=True),
}


def scheme_named(name: str) -> Scheme:
    """Return a scheme; UserError naming the nearest when there is none of that name."""
    if name not in SCHEMES:
        raise UserError(
            f"item ids {name!r}: expected one of {', '.join(SCHEMES)}{nearest(name, SCHEMES)}"
        )
    return SCHEMES[name]


def is_leaky(name: str) -> bool:
    """Return whether a scheme's ids may have been made from held-out interactions."""
    return name in SCHEMES and SCHEMES[name].leaky
