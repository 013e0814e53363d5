"""Which parameters are trained: path patterns split a tree of parameters in two."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from p5jax.core.errors import UserError

EVERYTHING = ("*",)


def split(params: Any, trainable: Sequence[str] = EVERYTHING) -> tuple[Any, Any]:
    """Return (trained, frozen): nested dicts of the leaves that a pattern matches, and of the rest.

    params: nested dicts. A pattern is matched as a file name's (fnmatch) against a whole path such
    as "encoder/layers_0/mlp/wi/kernel"; its * crosses slashes. UserError for one without a match.
    """
    flat = flatten_dict(params, sep="/")
    for pattern in trainable:
        if not any(fnmatchcase(name, pattern) for name in flat):
            known = ", ".join(sorted({name.split("/")[0] for name in flat}))
            raise UserError(
                f"trainable: {pattern!r} matches no parameter, expected paths below {known}"
            )
    trained = {
        name: leaf
        for name, leaf in flat.items()
        if any(fnmatchcase(name, pattern) for pattern in trainable)
    }
    frozen = {name: leaf for name, leaf in flat.items() if name not in trained}
    return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")


def merged(trained: Any, frozen: Any) -> Any:
    """Return the one tree that `split` made two of."""
    both = flatten_dict(trained, sep="/") | flatten_dict(frozen, sep="/")
    return unflatten_dict(both, sep="/")
