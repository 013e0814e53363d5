"""The device's numbers beside those that the CPU made in float32, and packed beside unpacked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from catalogue import popular, synthetic_ids
from ranking import export_weights

from parts.cells import Cell, Place

FOLDER, FILE = "parity", "values.npz"
ITEMS, CODES, BEAM, K, USERS = 500, 16, 20, 10, 16


def _batch() -> dict[str, np.ndarray]:
    """Padded sources and targets of random tokens."""
    rng = np.random.default_rng(0)
    source = rng.integers(3, 500, (USERS, 48)).astype(np.int32)
    target = rng.integers(3, 500, (USERS, 12)).astype(np.int32)
    for row in range(USERS):
        source[row, 8 + 2 * row :] = 0
        target[row, 2 + row % 10 :] = 0
    real = target > 0
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": target,
        "decoder_loss_weights": (real / real.sum(1, keepdims=True)).astype(np.float32),
    }


def _values(model: Any, params: Any) -> dict[str, np.ndarray]:
    """Logits, the loss and all of its gradient in a row."""
    import jax

    from p5jax.training.objective import REQUIRED, loss_fn

    batch = _batch()
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(lambda p: model.apply({"params": p}, *(batch[n] for n in REQUIRED)))
        loss = jax.jit(jax.value_and_grad(lambda p: loss_fn(model, p, batch)))
        (value, gradient), made = loss(params), logits(params)
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient)]
    real = batch["decoder_target_tokens"] > 0
    return {
        "logits": np.asarray(made)[real],
        "loss": np.asarray(value),
        "gradient": np.concatenate(leaves),
    }


def _ids() -> list[list[int]]:
    ids: list[list[int]] = synthetic_ids(ITEMS, CODES).tolist()
    return ids


def _ranked(model: Any, params: Any, method: str) -> Any:
    from p5jax.inference.ranking import rank
    from p5jax.inference.trie import Trie

    trie = Trie.build(_ids())
    exclude = np.arange(USERS * 9).reshape(USERS, 9) % ITEMS
    tokens = _batch()["encoder_input_tokens"]
    return rank(model, params, tokens, trie, K, method, beam=BEAM, exclude=exclude)


def store_reference(data: Path) -> None:
    """Write a small model that has learned ids, and what this machine makes of it, to `data`."""
    folder = data / FOLDER
    export_weights(folder, popular(_ids()), 100, "tiny")
    model, params = _model(folder, "float32")
    ranking = _ranked(model, params, "exact")
    found = _values(model, params) | {"items": ranking.items, "logp": ranking.logp}
    np.savez(folder / FILE, **found)


def _model(folder: Path, dtype: str) -> tuple[Any, Any]:
    """The stored model without dropout, and its parameters on the device."""
    import jax

    from p5jax.models.checkpoints.hugging_face import import_hugging_face
    from p5jax.models.t5 import Transformer

    config, params = import_hugging_face(folder)
    return Transformer(replace(config, dropout_rate=0.0, dtype=dtype)), jax.device_put(params)


def cells(place: Place) -> list[Cell]:
    """Float32 and bfloat16 against the reference; packed against unpacked."""
    folder = place.data / FOLDER
    found = [Cell("packed and unpacked", lambda _: _packed(folder), 5)]
    for dtype in ("float32",) if place.tiny else ("float32", "bfloat16"):
        found += [
            Cell(f"{dtype}, values", lambda _, d=dtype: _compared(folder, d), 10),
            Cell(f"{dtype}, rankings", lambda _, d=dtype: _lists(folder, d), 15),
        ]
    return found


def _stored(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / FILE) as file:
        return dict(file)


def _compared(folder: Path, dtype: str) -> dict[str, Any]:
    """Greatest differences, in units of the greatest value."""
    stored = _stored(folder)
    return {
        name: float(np.abs(value - stored[name]).max() / np.abs(stored[name]).max())
        for name, value in _values(*_model(folder, dtype)).items()
    }


def _lists(folder: Path, dtype: str) -> dict[str, Any]:
    """How far guaranteed lists are those of `exact`, and these the reference's."""
    stored, (model, params) = _stored(folder), _model(folder, dtype)
    exact, certified = (_ranked(model, params, method) for method in ("exact", "certified"))
    sure = certified.exact
    return {
        "rankings guaranteed by exact": int(exact.exact.sum()),
        "equal to the reference's": int((exact.items == stored["items"]).all(axis=1).sum()),
        "log-probabilities": float(np.abs(exact.logp - stored["logp"]).max()),
        "certified": int(sure.sum()),
        "certified, items of exact": int((certified.items == exact.items)[sure].all(axis=1).sum()),
        "certified, log-probabilities": float(
            np.abs(certified.logp - exact.logp)[sure].max(initial=0.0)
        ),
        "lists": USERS,
    }


def _packed(folder: Path) -> dict[str, Any]:
    """The loss of the same examples, one in a row and several."""
    import jax

    from p5jax.pipeline.batching import Tokens, first_fit, packed_batch
    from p5jax.training.objective import loss_fn

    batch, (model, params) = _batch(), _model(folder, "float32")
    examples = [
        Tokens(source[source > 0], target[target > 0])
        for source, target in zip(
            batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
        )
    ]
    rows = [[examples[n] for n in row] for row in first_fit(examples, 64, 32)]
    with jax.default_matmul_precision("highest"):
        losses = [
            float(jax.jit(lambda p, b: loss_fn(model, p, b))(params, each))
            for each in (batch, packed_batch(rows, 64, 32, len(rows)))
        ]
    return {"unpacked": losses[0], "packed": losses[1], "rows": len(rows), "examples": USERS}
