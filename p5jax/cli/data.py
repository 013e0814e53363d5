"""The commands `p5jax data …`: raw files to a dataset folder, and what is in one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial

from p5jax.cli.command import Command
from p5jax.cli.options import BEAM, REPLACES, RESUMES, add_gin, add_options, add_out
from p5jax.cli.output import print_json, show
from p5jax.core.errors import UserError
from p5jax.data.formats import FORMATS
from p5jax.data.names import TFDS_FORMATS

# The defaults of `vocabulary` and `export-shards` are written again here, for their modules import
# jax and help need not wait; tests/cli/test_commands.py compares them.


def _prepare_options(format: str, parser: ArgumentParser) -> None:
    add_options(parser, FORMATS[format])
    add_out(parser, REPLACES.format("a dataset"))


def _prepare(format: str, arguments: Namespace) -> None:
    from p5jax.data.prepare import prepare

    dataset = prepare(format, **vars(arguments))
    for topic, sentence in dataset.manifest["understood"].items():
        show(f"{topic:<12} {sentence}")
    counts = dataset.manifest["counts"]
    for name, count in counts.items():
        show(f"{name:<{max(24, *map(len, counts))}} {count:>12,}")
    show(f"wrote {arguments.out}")


def _folder_option(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a dataset folder")


def _inspect(arguments: Namespace) -> None:
    from p5jax.data.dataset import Dataset
    from p5jax.data.inspect import inspect

    show(inspect(Dataset.load(arguments.folder)))


def _audit_options(parser: ArgumentParser) -> None:
    _folder_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _audit(arguments: Namespace) -> int:
    from p5jax.evaluation.audit import format_audit
    from p5jax.jobs.audit import audit

    result = audit(arguments.folder)
    if arguments.json:
        print_json(result)
    else:
        show(format_audit(result))
    return 1 if result["leaks"] else 0


def _vocabulary_options(parser: ArgumentParser) -> None:
    _folder_option(parser)
    add_out(parser, REPLACES.format("a vocabulary"), metavar="FOLDER")
    parser.add_argument(
        "--size", type=int, default=4000, metavar="N", help="pieces at most (default 4000)"
    )
    parser.add_argument(
        "--templates",
        default="amazon",
        metavar="NAME|FILE",
        help="prompts whose words it holds (default amazon)",
    )


def _vocabulary(arguments: Namespace) -> None:
    from p5jax.jobs.vocabulary import vocabulary

    made = vocabulary(arguments.folder, arguments.out, arguments.size, arguments.templates)
    show(f"wrote {arguments.out}: {made.num_pieces} pieces, {made.size} ids")


def _export_shards_options(parser: ArgumentParser) -> None:
    add_gin(parser)
    add_out(parser, RESUMES)
    parser.add_argument(
        "--epochs",
        type=int,
        default=1,
        metavar="N",
        help="prompts for each training example (default 1)",
    )
    parser.add_argument("--shards", type=int, default=16, metavar="K", help="files (default 16)")
    parser.epilog = f"{parser.epilog} {BEAM}; its workers make the files then."


def _export_shards(arguments: Namespace) -> None:
    from p5jax.jobs.export_shards import export_shards

    export_shards(
        arguments.out,
        *arguments.gin_file,
        epochs=arguments.epochs,
        shards=arguments.shards,
        beam_options=arguments.after_dashes,
        bindings=arguments.bindings,
    )


def _count_pairs_options(parser: ArgumentParser) -> None:
    _folder_option(parser)
    parser.epilog = f"{BEAM}; its workers count then."


def _count_pairs(arguments: Namespace) -> None:
    from p5jax.jobs.count_pairs import count_pairs

    show(f"wrote {count_pairs(arguments.folder, arguments.after_dashes)}")


def _export_tfds_options(parser: ArgumentParser) -> None:
    _folder_option(parser)
    add_out(parser, metavar="TFDS_DIR")
    parser.add_argument(
        "--file-format",
        default=TFDS_FORMATS[0],
        choices=TFDS_FORMATS,
        help="array_record is read without TensorFlow, tfrecord by tfds.load and SeqIO"
        f" (default {TFDS_FORMATS[0]})",
    )


def _export_tfds(arguments: Namespace) -> None:
    try:
        from p5jax.data.tfds import export_tables
    except ImportError as error:
        raise UserError(f"export-tfds: {error}; expected pip install 'p5jax[tfds]'") from error

    for path in export_tables(arguments.folder, arguments.out, arguments.file_format):
        show(path)


COMMANDS = (
    *(
        Command(
            f"data prepare {format}",
            options.summary,
            partial(_prepare_options, format),
            partial(_prepare, format),
        )
        for format, options in FORMATS.items()
    ),
    Command("data inspect", "Show counts, protocol and a few rows", _folder_option, _inspect),
    Command(
        "data audit",
        "Check for leaks and measure the baselines without parameters",
        _audit_options,
        _audit,
    ),
    Command(
        "data vocabulary",
        "Train the vocabulary that a run on a dataset would train",
        _vocabulary_options,
        _vocabulary,
    ),
    Command(
        "data export-shards",
        "Tokenise a run's training prompts once and write ArrayRecord files",
        _export_shards_options,
        _export_shards,
        takes_dashes=True,
    ),
    Command(
        "data count-pairs",
        "Count once which items stand near which, for all memories",
        _count_pairs_options,
        _count_pairs,
        takes_dashes=True,
    ),
    Command(
        "data export-tfds",
        "Write a dataset folder as TFDS datasets",
        _export_tfds_options,
        _export_tfds,
    ),
)
