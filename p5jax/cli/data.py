"""The commands `p5jax data …`: raw files to a dataset folder, and what is in one."""

from __future__ import annotations

import argparse
import json
from typing import Any

from p5jax.core.errors import UserError


def add(commands: Any, command: Any) -> None:
    """Add the commands below `p5jax data`; `command` makes one of a name, a function and a help."""
    prepare = command("prepare", None, "raw files to one dataset folder", commands)
    formats = prepare.add_subparsers(dest="format", required=True, metavar="FORMAT")
    amazon = command("amazon", _prepare, "Amazon reviews of 2014, 2018 or 2023", formats)
    amazon.add_argument("--reviews", nargs="+", required=True, metavar="FILE")
    amazon.add_argument("--metadata", nargs="+", default=[], metavar="FILE")
    amazon.add_argument("--feature-words", metavar="FILE")
    recbole = command("recbole", _prepare, "RecBole atomic files", formats)
    recbole.add_argument("--folder", required=True, metavar="DIR")
    sequences = command("sequences", _prepare, "P5 / S3-Rec sequence files", formats)
    sequences.add_argument("--sequences", required=True, metavar="FILE")
    sequences.add_argument("--datamaps", metavar="FILE")
    sequences.add_argument("--items", metavar="FILE")
    synthetic = command("synthetic", _prepare, "a small invented world", formats)
    for each in (amazon, recbole, sequences, synthetic):
        each.add_argument("--out", required=True, metavar="DIR")
        each.add_argument("--k-core", type=int, default=5, metavar="K")
        each.add_argument("--item-ids", default="sequential", metavar="SCHEME")
        each.add_argument("--seed", type=int, default=0, metavar="N")
        each.add_argument("--skip-bad-lines", action="store_true")
    inspect = command("inspect", _inspect, "counts, protocol and a few rows", commands)
    inspect.add_argument("folder", metavar="DIR")
    vocabulary = command("vocabulary", _vocabulary, "train the vocabulary of a run", commands)
    vocabulary.add_argument("folder", metavar="DIR")
    vocabulary.add_argument("--out", required=True, metavar="FOLDER")
    vocabulary.add_argument("--size", type=int, default=4000, metavar="N", help="pieces at most")
    vocabulary.add_argument("--templates", default="amazon", metavar="NAME|FILE")
    audit = command("audit", _audit, "leak checks and zero-parameter baselines", commands)
    audit.add_argument("folder", metavar="DIR")
    audit.add_argument("--json", action="store_true")
    shards = command(
        "export-shards",
        _export_shards,
        "a run's training prompts, tokenised, as ArrayRecord files (--gin.NAME=VALUE overrides)",
        commands,
    )
    shards.add_argument("--gin_file", action="append", required=True, metavar="FILE")
    shards.add_argument("--out", required=True, metavar="DIR")
    shards.add_argument(
        "--epochs", type=int, default=1, metavar="N", help="N prompts for each training example (1)"
    )
    shards.add_argument("--shards", type=int, default=16, metavar="K", help="files (16)")
    tables = command("export-tfds", _export_tfds, "a dataset folder as TFDS datasets", commands)
    tables.add_argument("folder", metavar="DIR")
    tables.add_argument("--out", required=True, metavar="TFDS_DIR")


def print_json(value: Any) -> None:
    """Print a value as indented JSON, text as it is."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_results(results: Any, leaky: bool, as_json: bool) -> None:
    """Print an evaluation as tables or as JSON, in the first process alone."""
    from p5jax.evaluation.results import LEAKY_NOTE, format_results, summary
    from p5jax.parallel import distributed

    if not distributed.is_primary():
        return
    if as_json:
        print_json({"leaky_item_ids": leaky, "results": summary(results)})
        return
    if leaky:
        print(LEAKY_NOTE)
    print(format_results(results))


def _prepare(arguments: argparse.Namespace) -> None:
    from p5jax.data.prepare import prepare

    dataset = prepare(arguments.format, arguments.out, **_format_arguments(arguments))
    for name, count in dataset.manifest["counts"].items():
        print(f"{name:<24} {count:>12,}")
    print(f"wrote {arguments.out}")


def _format_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    common = {"run", "command", "data_command", "format", "out"}
    return {name: value for name, value in vars(arguments).items() if name not in common}


def _inspect(arguments: argparse.Namespace) -> None:
    from p5jax.data.dataset import Dataset
    from p5jax.data.inspect import inspect

    print(inspect(Dataset.load(arguments.folder)))


def _vocabulary(arguments: argparse.Namespace) -> None:
    from p5jax.data.dataset import Dataset
    from p5jax.runs.run import RunConfig, chosen_templates, make_vocabulary

    config = RunConfig(
        arguments.folder,
        run_dir="",
        templates=arguments.templates,
        vocabulary_size=arguments.size,
    )
    dataset = Dataset.load(arguments.folder)
    vocabulary = make_vocabulary(config, dataset, chosen_templates(config))
    vocabulary.save(arguments.out)
    print(f"wrote {arguments.out}: {vocabulary.num_pieces} pieces, {vocabulary.size} ids")


def _export_shards(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from p5jax.pipeline.shard_export import export_from_gin

    export_from_gin(
        arguments.gin_file,
        overrides,
        arguments.out,
        epochs=arguments.epochs,
        shards=arguments.shards,
    )


def _export_tfds(arguments: argparse.Namespace) -> None:
    try:
        from p5jax.data.tfds import export_tables
    except ImportError as error:
        raise UserError(f"export-tfds: {error}; expected pip install 'p5jax[tfds]'") from error

    for path in export_tables(arguments.folder, arguments.out):
        print(path)


def _audit(arguments: argparse.Namespace) -> int:
    from p5jax.data.dataset import Dataset
    from p5jax.evaluation.audit import audit, format_audit

    result = audit(Dataset.load(arguments.folder))
    if arguments.json:
        print_json(result)
    else:
        print(format_audit(result))
    return 1 if result["leaks"] else 0
