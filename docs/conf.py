"""Sphinx configuration: MyST pages, notebooks run at build time, the API from its docstrings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import p5jax

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

# Notebooks run in processes of their own; they find this checkout and print no warnings of XLA.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

project = "p5jax"
author = "the p5jax authors"
release = version = p5jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_reference",
    "settings_reference",
]
exclude_patterns = ["_build", "figures", "extensions"]

html_theme = "furo"
html_title = f"p5jax {release}"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # included pages start below the page that includes them

# A notebook is run again only when its code has changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".notebooks")
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "remove"
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

# Signatures name types of other packages, and of modules that have no page here.
nitpick_ignore_regex = [
    (r"py:.*", r"(jax|jaxlib|flax|numpy|np|pyarrow|pa|pathlib|os|collections|typing|types)\..*"),
    (r"py:.*", r"p5jax\.\w+\..*"),
    (r"py:.*", r"tuple\[.*"),
    (r"py:.*", r"(Path|PathLike|Mapping|Sequence|Iterable|Iterator|Callable|Any|Array|ArrayLike)"),
]
