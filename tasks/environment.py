"""Registering from environment variables, where nobody can call `register` with arguments."""

from __future__ import annotations

from collections.abc import Mapping

from p5jax.core.errors import UserError
from p5jax.tasks.registry import register, register_run


def register_from(environment: Mapping[str, str]) -> str:
    """Register what P5JAX_RUN, or P5JAX_DATASET and P5JAX_VOCABULARY, name.

    P5JAX_TEMPLATES (amazon), P5JAX_EPOCHS (10) and P5JAX_SEED (0) are `register`'s arguments.
    Returns the whole mixture's name; UserError when neither is set or a number is malformed.
    """
    epochs = _number(environment, "P5JAX_EPOCHS", 10)
    seed = _number(environment, "P5JAX_SEED", 0)
    if "P5JAX_RUN" in environment:
        run: str = register_run(environment["P5JAX_RUN"], epochs=epochs, seed=seed)
        return run
    try:
        dataset, vocabulary = environment["P5JAX_DATASET"], environment["P5JAX_VOCABULARY"]
    except KeyError as error:
        raise UserError(
            f"{error.args[0]} is not set: expected P5JAX_RUN, or P5JAX_DATASET and P5JAX_VOCABULARY"
        ) from None
    templates = environment.get("P5JAX_TEMPLATES", "amazon")
    whole: str = register(dataset, vocabulary, templates=templates, epochs=epochs, seed=seed)
    return whole


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}: found {text!r}, expected a number") from None
