"""The commands that put a run to use: recommend, rank, merge, score, serve and more."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from p5jax.cli.command import Command, opened_in_session
from p5jax.cli.options import RESUMES, add_mesh, add_options, add_out, from_options, names
from p5jax.cli.output import note, print_json, print_results, show, warn_of_leak
from p5jax.cli.runs import opening, triggers_option, used_run_options
from p5jax.core.errors import UserError

if TYPE_CHECKING:
    from p5jax.data.dataset import Dataset
    from p5jax.serving.question import Question
    from p5jax.serving.recommender import Recommender
    from p5jax.serving.settings import BulkConfig

_LISTED = "separated by commas; give one that holds a comma alone, and others again"


def _recommender(arguments: Namespace) -> Recommender:
    from p5jax.runs.run import Run
    from p5jax.serving.recommender import Recommender

    run = Run.load(arguments.folder, step=arguments.from_step)
    return Recommender.load(run, arguments.triggers)


def _items_option(parser: ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(
        name,
        action="append",
        metavar="KEY,KEY",
        help=f"{text}, by key or unique title, {_LISTED}",
    )


def _question_options(parser: ArgumentParser) -> None:
    parser.add_argument("--user", metavar="KEY", help="the user's key in the source data")
    _items_option(parser, "--history", "what the user has, oldest first, instead of the dataset's")
    _items_option(parser, "--candidates", "the items to choose from (default: the catalogue)")
    _items_option(parser, "--exclude", "items not to recommend")


def _question(arguments: Namespace, dataset: Dataset) -> Question:
    from p5jax.serving.question import Question

    history, candidates = (
        None if texts is None else tuple(_keys(texts, dataset))
        for texts in (arguments.history, arguments.candidates)
    )
    exclude = tuple(_keys(arguments.exclude or (), dataset))
    return Question(arguments.user, history, candidates, exclude)


def _keys(texts: Sequence[str], dataset: Dataset) -> list[str]:
    """Read names of items, in each text several that are separated by commas, or one alone."""
    found: list[str] = []
    for text in texts:
        found += (text,) if dataset.names_item(text) else names(text)
    return found


def _prompts_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--prompts",
        action="extend",
        type=names,
        default=[],
        metavar="2-3,2-5",
        help="prompts for a next item, whose probabilities are averaged if they are several"
        " (default: the first that an evaluation shows)",
    )


def _memory_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--no-memory",
        dest="memory",
        action="store_false",
        help="leave the run's memory out, where p5jax memory has chosen one",
    )


def _recommend_options(parser: ArgumentParser) -> None:
    from p5jax.serving.settings import BulkConfig

    used_run_options(parser)
    _question_options(parser)
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="instead of one question a file of many: in each line a JSON object with user,"
        " history, candidates or exclude",
    )
    parser.add_argument(
        "--output", metavar="FILE", help=f"where the answers to --input go, in order; {RESUMES}"
    )
    _prompts_option(parser)
    add_options(parser, BulkConfig, skip=("prompts", "batch_size"))
    triggers_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _recommend(arguments: Namespace) -> None:
    from p5jax.serving.settings import BulkConfig

    if (arguments.input is None) != (arguments.output is None):
        raise UserError("expected both --input and --output, or neither")
    config = from_options(BulkConfig, arguments)
    recommender = _recommender(arguments)
    warn_of_leak(recommender.run.dataset)
    if arguments.input is not None:
        _answer_file(arguments, recommender, config)
        return
    found = recommender.recommend(
        [_question(arguments, recommender.run.dataset)],
        config.k,
        prompts=config.prompts,
        method=config.method,
        beam=config.beam,
        exact=config.exact,
        memory=config.memory,
        exclude_history=config.exclude_history,
    )[0]
    if arguments.json:
        asked = {} if arguments.user is None else {"user": arguments.user}
        print_json({**asked, **asdict(found)})
        return
    for place, item in enumerate(found.items, 1):
        show(f"{place:3d}  {item.log_probability:8.3f}  {item.item}  {item.title or ''}".rstrip())
    if not found.exact:
        note(
            f"a search of width {max(config.beam, config.k)} cannot tell whether these are"
            f" the model's best {config.k}; --method certified --exact can"
        )


def _answer_file(arguments: Namespace, recommender: Recommender, config: BulkConfig) -> None:
    from p5jax.serving.lines import answer_lines

    for name in ("user", "history", "candidates", "exclude", "json"):
        if getattr(arguments, name):
            raise UserError(f"--{name}: found it with --input, whose lines say it")
    answer_lines(recommender, arguments.input, arguments.output, config)
    show(f"wrote {arguments.output}")


def _score_options(parser: ArgumentParser) -> None:
    used_run_options(parser)
    _question_options(parser)
    _items_option(parser, "--items", "the items to score")
    _prompts_option(parser)
    _memory_option(parser)
    triggers_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _score(arguments: Namespace) -> None:
    if arguments.items is None:
        raise UserError("--items: expected items to score")
    recommender = _recommender(arguments)
    dataset = recommender.run.dataset
    warn_of_leak(dataset)
    question, items = _question(arguments, dataset), _keys(arguments.items, dataset)
    found = recommender.placed(question, items, prompts=arguments.prompts, memory=arguments.memory)
    if arguments.json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        line = f"{each.rank or '-':>6}  {each.log_probability:8.3f}  {each.item}"
        show(f"{line}  {each.title or ''}".rstrip())


def _rank_options(parser: ArgumentParser) -> None:
    from p5jax.serving.settings import BulkConfig

    used_run_options(parser)
    add_out(parser, RESUMES)
    _prompts_option(parser)
    add_options(parser, BulkConfig, skip=("prompts",))
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="rank the I-th of N shares of the users alone, for p5jax merge",
    )
    triggers_option(parser)
    add_mesh(parser)


def _rank(arguments: Namespace) -> None:
    from p5jax.parallel import distributed
    from p5jax.serving.recommender import Recommender
    from p5jax.serving.settings import BulkConfig
    from p5jax.triggers.prompt import load_triggers

    config = from_options(BulkConfig, arguments)
    with opened_in_session(*opening(arguments)) as run:
        if distributed.is_primary():
            warn_of_leak(run.dataset)
        triggers = load_triggers(arguments.triggers, run) if arguments.triggers else None
        Recommender(run, triggers).recommend_all(arguments.out, config, shard=arguments.shard)


def _merge_options(parser: ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="what each --shard wrote")
    add_out(parser, "of an evaluation RUN/evaluation/SPLIT, where compare and report look")


def _merge(arguments: Namespace) -> None:
    from p5jax.evaluation.results import has_leaky_ids
    from p5jax.jobs.merge import merge

    results = merge(arguments.folders, arguments.out)
    if results is not None:
        print_results(results, has_leaky_ids(Path(arguments.out)), as_json=False)
    show(f"wrote {arguments.out}")


def _explain_options(parser: ArgumentParser) -> None:
    used_run_options(parser)
    parser.add_argument(
        "--user", required=True, metavar="KEY", help="the user's key in the source data"
    )
    parser.add_argument(
        "--item", required=True, metavar="KEY", help="the item's key in the source data"
    )
    parser.add_argument(
        "--prompt",
        metavar="ID",
        help="prompt to answer (default: 3-1, or E-1 or 3-8 for an item without a title)",
    )
    parser.add_argument(
        "--feature",
        metavar="WORD",
        help="feature that the explanation names, for prompts such as E-1 (default: the item's most"
        " frequent one)",
    )
    triggers_option(parser)


def _explain(arguments: Namespace) -> None:
    recommender = _recommender(arguments)
    user, item = arguments.user, arguments.item
    show(recommender.explain(user, item, prompt=arguments.prompt, feature=arguments.feature))


def _generate_options(parser: ArgumentParser) -> None:
    used_run_options(parser)
    parser.add_argument("--text", required=True, help="the prompt")
    triggers_option(parser)


def _generate(arguments: Namespace) -> None:
    show(_recommender(arguments).generate(arguments.text))


def _serve_options(parser: ArgumentParser) -> None:
    from p5jax.serving.settings import ServeConfig

    used_run_options(parser)
    parser.add_argument(
        "--beside", metavar="RUN", help="another run that is served too, to be compared on the page"
    )
    add_options(parser, ServeConfig, skip=("prompts",))
    _prompts_option(parser)
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token that callers must send (default: the variable P5JAX_TOKEN;"
        " without either everybody may ask)",
    )
    triggers_option(parser)


def _serve(arguments: Namespace) -> None:
    from p5jax.serving.recommender import Recommender
    from p5jax.serving.settings import ServeConfig

    try:
        from p5jax.serving.http.server import read_token, serve
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; pip install 'p5jax[serve]'") from None
    token = read_token(arguments.token_file)
    config = from_options(ServeConfig, arguments)

    def load() -> list[Recommender]:
        beside = [arguments.beside] if arguments.beside else []
        return [_recommender(arguments), *map(Recommender.load, beside)]

    first = load()
    for each in first:
        warn_of_leak(each.run.dataset)
    serve(first, load, config, token)


COMMANDS = (
    Command(
        "recommend",
        "Recommend the next items for a user or a history",
        _recommend_options,
        _recommend,
    ),
    Command("rank", "Recommend for every user and write Parquet files", _rank_options, _rank),
    Command("merge", "Join the shards of a ranking or an evaluation", _merge_options, _merge),
    Command("score", "Score items for a user or a history", _score_options, _score),
    Command("serve", "Answer over HTTP, with a page to look at", _serve_options, _serve),
    Command("explain", "Explain why a user may like an item", _explain_options, _explain),
    Command("generate", "Print the model's answer to any text", _generate_options, _generate),
)
