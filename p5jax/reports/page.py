"""A self-contained HTML page: one style, no script, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from p5jax.core.files import replace_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dbe1 }
table { border-collapse: collapse; margin: .8rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e8ecf0 }
th, td { text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
tr.model td { background: #eef5fc; font-weight: 600 }
small { color: #6a7683; font-weight: 400 }
td small { display: block; font-size: .75em }
.note { color: #6a7683 }
.leaky { background: #fdecea; padding: .6rem 1rem; border-left: 4px solid #c0392b }
.example { border-left: 3px solid #d5dbe1; padding: .1rem .8rem; margin: .8rem 0 }
.example p { margin: .2rem 0; overflow-wrap: anywhere }
svg { max-width: 100%; height: auto }
"""


def write_page(path: Path, title: str, sections: Sequence[str]) -> None:
    """Write the page whole or not at all; `title` is text, `sections` are HTML."""
    replace_text(
        path,
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{''.join(sections)}</html>\n",
    )


def with_interval(value: float, low: float, high: float) -> str:
    """A value as HTML, its interval in brackets; nan ends are no interval."""
    interval = "–" if math.isnan(low) else f"{low:.4f}, {high:.4f}"
    return f"{value:.4f} <small>[{interval}]</small>"
