"""Several prompts that ask the same: the mean of the probabilities that they give an item.

Letters: B users, N found items, M items of all prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p5jax.inference.search import Found


def together(founds: Sequence[Found]) -> np.ndarray:
    """Return the items that any of the searches found: int32 [B, M], each once, -1 for none."""
    items = np.sort(np.concatenate([np.asarray(found.items) for found in founds], axis=1), axis=1)
    repeated = items[:, 1:] == items[:, :-1]
    items[:, 1:][repeated] = -1
    return items


def averaged(founds: Sequence[Found], items: np.ndarray, logps: Sequence[np.ndarray]) -> Found:
    """Return the log of the mean probability of items [B, M], best first, and its bound.

    logps: what each prompt gives the items, [B, M]. Another item is in no prompt's pool, so it is
    under each one's bound, and its mean under the mean of these: a list stays guaranteed.
    """
    logp, bound = _log_mean(logps), _log_mean([np.asarray(found.bound) for found in founds])
    items = np.where(np.isneginf(logp), -1, items)
    order = np.lexsort((items, -logp), axis=1)
    items, logp = (np.take_along_axis(each, order, axis=1) for each in (items, logp))
    return Found(items, logp.astype(np.float32), bound)


def _log_mean(logps: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack([np.asarray(logp, np.float64) for logp in logps])
    mean: np.ndarray = np.logaddexp.reduce(stacked, axis=0) - np.log(len(logps))
    return mean
