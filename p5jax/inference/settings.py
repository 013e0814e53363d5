"""Settings of a ranking that configurations share; imports no jax, so that help is fast."""

from __future__ import annotations

from p5jax.core.errors import UserError

METHODS = ("certified", "exact", "beam")
LIKELIHOODS = ("vocabulary", "children")


def check_settings(
    k: int, beam: int, method: str, exact: bool = False, likelihood: str = "vocabulary"
) -> None:
    """Raise UserError for settings of `rank` that are unknown, below one or contradict."""
    for name, found in (("k", k), ("beam", beam)):
        if found < 1:
            raise UserError(f"{name}: found {found}, expected at least 1")
    if method not in METHODS:
        raise UserError(f"method: found {method!r}, expected {', '.join(METHODS)}")
    if likelihood not in LIKELIHOODS:
        raise UserError(f"likelihood: found {likelihood!r}, expected {', '.join(LIKELIHOODS)}")
    if exact and method == "beam":
        raise UserError("exact: found it with method beam, expected method certified or exact")
