"""A run's ranking as programs that need no p5jax: one for each shape, on every platform.

A folder of them holds the weights and the trie of the item ids once, the programs, which take both
as arguments, the prompts of the dataset's users, the names of items and users, and `load.py`, the
text of serving.loader, which imports jax and numpy alone.

Letters: B users, S tokens of a prompt, E excluded items, N tokens an answer begins with, K beam.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from p5jax.core.files import checksum, claim_replacing, replaced_folder
from p5jax.core.folder import OutputFolder
from p5jax.core.progress import Progress, Report, print_progress
from p5jax.inference.ranking import begun_rows, given_rows, guaranteed, search_prompt
from p5jax.inference.search import Width
from p5jax.inference.trie import Trie
from p5jax.models.t5 import Transformer
from p5jax.serving import loader
from p5jax.serving.question import Case
from p5jax.serving.ranker import Ranker
from p5jax.serving.settings import PROGRAM_DEFAULTS, ProgramsConfig
from p5jax.training.checkpoints import params_fingerprint

Arrays = dict[str, np.ndarray]
Program = Callable[..., tuple[jax.Array, ...]]
PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAMS_FOLDER = OutputFolder(
    "folder of programs", loader.MANIFEST, loader.FORMAT_VERSION, "p5jax export --format jax"
)
_LENGTHS = (32, 64, 128, 256)  # of prompts, below the run's longest
_MORE_EXCLUDED = 100  # items to exclude beside the longest history
_METHOD = "certified"
_TRIE = [each.name for each in fields(Trie) if each.name != "levels"]
_FILES = ("weights", "trie", "prompts")  # of arrays
_README = """# Programs of {run}

Recommendations of a model that p5jax trained on {dataset}, with jax, flatbuffers and numpy
alone, on a CPU, an NVIDIA GPU or a TPU:

    pip install jax flatbuffers
    python load.py '{user}'

They were written by jax {jax}. jax promises to read them for six months after its release.

`load.py` says how Python calls them. `Programs.recommend` takes users of the dataset, whose
prompts and histories are in `prompts.npz`. `Programs.rank` takes the tokens of any prompt, as the
run's vocabulary writes prompt {prompt} (`p5jax.Recommender.views` shows them), up to {length}, and
items that are not to be listed, up to {excluded}. The answers are those of `p5jax recommend` with
`--no-memory --beam {beam}`; a list is guaranteed where no better item can be missing.
"""
_LEAKY = """
The dataset's item ids were made from held-out interactions, too: figures of this model are not
comparable with those of others.
"""


def export_programs(
    ranker: Ranker,
    out: str | os.PathLike[str],
    config: ProgramsConfig = PROGRAM_DEFAULTS,
    report: Report = print_progress,
) -> None:
    """Write programs that rank the catalogue as `ranker` does, without its memory.

    UserError for an unknown prompt, and an `out` that is something else; programs that are there
    are replaced.
    """
    out, run = Path(out), ranker.run
    PROGRAMS_FOLDER.look(out, {}, started=False)
    (prompt,) = ranker.next_item_prompts((config.prompt,) if config.prompt else ())
    trie = ranker.trie(prompt, _METHOD)
    prompts = _prompts(ranker, prompt)
    longest = run.family_config.max_source
    history = int(np.diff(prompts["history_start"]).max())
    shapes: dict[str, Any] = {
        "rows": sorted({1, config.batch_size}),
        "lengths": [*(length for length in _LENGTHS if length < longest), longest],
        "begun": prompts["begun"].shape[1],
        "excluded": history + _MORE_EXCLUDED,
    }
    claim_replacing(out)
    if ranker.memory is not None:
        report("note: the run's memory is no part of programs; their lists are the model's alone")
    with replaced_folder(out) as folder:
        arrays: dict[str, Any] = {name: np.asarray(getattr(trie, name)) for name in _TRIE}
        weights = {name: np.asarray(x) for name, x in flatten_dict(run.params, sep="/").items()}
        program = _program(run.model, trie, config.beam)
        version = _write_programs(folder, program, (weights, arrays), shapes, report)
        for name, content in zip(_FILES, (weights, arrays, prompts), strict=True):
            np.savez(folder / f"{name}.npz", **content)
        dataset = run.dataset
        names = {
            "items": dataset.item_keys,
            "titles": dataset.titles,
            "users": dataset.user_keys,
        }
        (folder / "names.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
        (folder / "load.py").write_bytes(Path(loader.__file__).read_bytes())
        manifest = {
            **shapes,
            "prompt": prompt,
            "beam": config.beam,
            "words": run.model.config.vocab_size,
            "jax": jax.__version__,
            "calling_convention": version,
            "platforms": PLATFORMS,
            "dataset": dataset.fingerprint,
            "parameters": params_fingerprint(run.params),
            "leaky_item_ids": dataset.leaky,
            "files": {file.name: checksum(file) for file in sorted(folder.glob("[!.]*"))},
        }
        (folder / "README.md").write_text(_readme(ranker, manifest), encoding="utf-8")
        PROGRAMS_FOLDER.write(folder, manifest)


def _prompts(ranker: Ranker, prompt: str) -> dict[str, np.ndarray]:
    """What the dataset's users are asked: tokens and histories one after the other, where each
    user's start, and what the answers begin with."""
    dataset = ranker.run.dataset
    cases = [Case.of_user(dataset, user) for user in range(dataset.num_users)]
    asked = [each.prompts[0] for each in ranker.prompted(cases, (prompt,))]
    given = given_rows([each.given for each in asked], ranker.run.vocabulary)
    found = {"begun": begun_rows(given, len(asked))}
    rows: dict[str, list[Any]] = {
        "tokens": [each.tokens for each in asked],
        "history": [case.history for case in cases],
    }
    for name, values in rows.items():
        found[name] = np.concatenate(values).astype(np.int32)
        found[f"{name}_start"] = np.cumsum([0, *map(len, values)])
    return found


def _program(model: Transformer, trie: Trie, beam: int) -> Program:
    """The function that is exported: of weights, trie, tokens [B, S], begun [B, N], exclude [B, E].

    Returns the K best items [B, K], their log-probabilities, and whether the list that ends with
    each is guaranteed.
    """

    def rank_rows(
        weights: Arrays, arrays: Arrays, tokens: jax.Array, begun: jax.Array, exclude: jax.Array
    ) -> tuple[jax.Array, ...]:
        params, ids = unflatten_dict(weights, sep="/"), Trie(**arrays, levels=trie.levels)
        width = Width(beam, beam)
        found = search_prompt(model, params, tokens, begun, ids, exclude, width).found
        missing = ((0, 0), (0, beam - found.items.shape[1]))  # of a catalogue with few items
        items = jnp.pad(found.items, missing, constant_values=-1)
        logp = jnp.pad(found.logp, missing, constant_values=-jnp.inf)
        return items, logp, guaranteed(logp, jnp.asarray(found.bound)[:, None], model.config.dtype)

    return rank_rows


def _write_programs(
    folder: Path,
    program: Program,
    constant: tuple[Arrays, Arrays],
    shapes: dict[str, Any],
    report: Report,
) -> int:
    """Write a program for each shape; return the version of how all of them are called."""
    todo = list(itertools.product(shapes["rows"], shapes["lengths"]))
    progress = Progress("exporting", "programs", len(todo), report)
    for rows, length in todo:
        widths = (length, shapes["begun"], shapes["excluded"])
        inputs = [jax.ShapeDtypeStruct((rows, width), jnp.int32) for width in widths]
        made = export.export(jax.jit(program), platforms=PLATFORMS)(*constant, *inputs)
        (folder / loader.program_name(rows, length)).write_bytes(made.serialize())
        progress.add(1)
    return made.calling_convention_version


def _readme(ranker: Ranker, manifest: dict[str, Any]) -> str:
    dataset = ranker.run.dataset
    names = {"run": ranker.run.path.name, "dataset": dataset.name, "user": dataset.user_keys[0]}
    text = _README.format_map(manifest | names | {"length": manifest["lengths"][-1]})
    return text + (_LEAKY if dataset.leaky else "")
