"""Item vectors from texts: the means of what a T5's encoder makes of their tokens."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.progress import Progress, print_progress
from p5jax.models.checkpoints.hugging_face import import_hugging_face
from p5jax.models.checkpoints.tokenizer import PIECES
from p5jax.models.t5 import PAD_ID, Transformer
from p5jax.runs.run import RUN_FOLDER, Run
from p5jax.text.vocabulary import Vocabulary

LONGEST = 256  # tokens of a text; what is beyond is cut
STEP = 32  # lengths are padded to multiples of it, so that few programs are compiled
BATCH = 64


def encode_texts(folder: str | os.PathLike[str], texts: Sequence[str]) -> np.ndarray:
    """Return the mean of the encoder's states of each text's tokens, float32 [N, D].

    folder: a Hugging Face T5 with its spiece.model, or a run folder. A text without words gives
    zeros. UserError when the folder is neither, or no text has words.
    """
    model, params, vocabulary = _opened(Path(folder))
    tokens = [vocabulary.encode(text)[:LONGEST] for text in texts]
    if not any(tokens):
        raise UserError("text_encoder: found no title, brand or category, expected some to encode")
    vectors = np.zeros((len(tokens), model.config.emb_dim), np.float32)
    order = [n for n in np.argsort([len(ids) for ids in tokens], kind="stable") if tokens[n]]
    progress = Progress("item texts", "texts", len(order), print_progress)
    encode = jax.jit(partial(_means, model))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = len(tokens[rows[-1]])
        batch = np.full((BATCH, -(-longest // STEP) * STEP), PAD_ID, np.int32)
        for place, row in enumerate(rows):
            batch[place, : len(tokens[row])] = tokens[row]
        vectors[rows] = encode(params, batch)[: len(rows)]
        progress.add(len(rows))
    if not np.isfinite(vectors).all():
        raise UserError(f"{folder}: its encoder gives numbers that are not finite")
    return vectors


def _opened(folder: Path) -> tuple[Transformer, Any, Vocabulary]:
    """The model, its parameters and its vocabulary."""
    if RUN_FOLDER.is_at(folder):
        run = Run.load(folder)
        return run.model, run.params, run.vocabulary
    if not (folder / PIECES).is_file():
        raise UserError(
            f"{folder}: found no {PIECES} and no {RUN_FOLDER.manifest}, expected a Hugging Face T5"
            " or a run folder"
        )
    vocabulary = Vocabulary.from_model(folder / PIECES)
    config, params = import_hugging_face(folder, pieces=vocabulary.num_pieces)
    return Transformer(dataclasses.replace(config, dtype="float32")), params, vocabulary


def _means(model: Transformer, params: Any, tokens: jax.Array) -> jax.Array:
    """[B, S] tokens -> the means [B, D] of the states at what is no padding."""
    states: Any = model.apply({"params": params}, tokens, None, False, method=Transformer.encode)
    real = (tokens != PAD_ID)[..., None]
    means: jax.Array = (states * real).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)
    return means
