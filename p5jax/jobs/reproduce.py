"""One recipe: raw files to a dataset, a trained model, and figures beside their bands."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from p5jax.core import config
from p5jax.core.errors import Unwritten, UserError
from p5jax.core.folder import OutputFolder
from p5jax.data.dataset import DATASET_FOLDER, Dataset
from p5jax.data.prepare import chosen_options, prepare
from p5jax.evaluation.audit import audit, format_audit
from p5jax.evaluation.recipe import Figure, RecipeConfig, figures_of
from p5jax.evaluation.results import FamilyResult
from p5jax.jobs import pretrain, train
from p5jax.jobs.evaluate import evaluate
from p5jax.jobs.start import Bindings, PathName, configure
from p5jax.parallel import distributed
from p5jax.ppr.backbone.run import BACKBONE_RUN, PprRun
from p5jax.runs.run import RUN_FOLDER, Run
from p5jax.training.trainer import TrainConfig

_JOBS: Mapping[str, tuple[Callable[..., Run | PprRun], OutputFolder]] = {
    "train": (train.train, RUN_FOLDER),
    "pretrain": (pretrain.pretrain, BACKBONE_RUN),
}


@dataclass(frozen=True)
class Reproduction:
    """A recipe's run, its results, baselines among them, and its figures beside their bands."""

    run: Run | PprRun
    results: Sequence[FamilyResult]
    figures: Sequence[Figure]

    @property
    def holds(self) -> bool:
        """Whether no figure is outside its band."""
        return all(figure.holds for figure in self.figures)


def reproduce(
    name: str,
    data: PathName | None = None,
    out: PathName | None = None,
    seed: int | None = None,
) -> Reproduction:
    """Prepare a recipe's data, train and evaluate its model, and compare figures with their bands.

    name: of a file in gin/results/, or the path of a gin file that binds RecipeConfig. data: the
    folder below which the recipe's raw files are, None for a recipe without any. out: the run's
    folder, by default runs/NAME; the dataset is beside it. seed: of training, by default the
    recipe's. A call that was interrupted resumes; one that finished is evaluated again.
    UserError for an unknown name, a missing file, data that leak, and a folder of other things.
    """
    file = config.find_gin_file(name, below="results")
    run_dir = Path(Path("runs", file.stem) if out is None else out).absolute()
    dataset_dir = run_dir.with_name(f"{run_dir.name}-data")
    macros: dict[str, object] = {"DATASET": dataset_dir, "RUN_DIR": run_dir}
    macros |= {} if seed is None else {"SEED": seed}
    recipe = _recipe(file, macros)
    options = _prepare_options(recipe, file, data)
    start, folder = _JOBS[recipe.job]
    folder.look(run_dir, {})  # before anything is made

    distributed.report(f"1 of 3: prepare and audit {dataset_dir}")
    distributed.from_primary(partial(_prepare, recipe.format, options, dataset_dir))
    _audit(Dataset.load(dataset_dir))
    distributed.report(f"2 of 3: train {run_dir}")
    run = start(file, **macros)
    distributed.report("3 of 3: evaluate on the test split")
    try:
        results = _evaluate(run, recipe)
    except Unwritten as error:
        found = Reproduction(run, error.value, figures_of(error.value, recipe))
        raise Unwritten(error, found) from error
    return Reproduction(run, results, figures_of(results, recipe))


def _recipe(file: Path, macros: Bindings) -> RecipeConfig:
    configure((*train.CONFIGS, *pretrain.CONFIGS), [file], None, macros)
    config.build(TrainConfig)  # a seed that is none is refused before the data are made
    try:
        return config.build(RecipeConfig)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _prepare_options(recipe: RecipeConfig, file: Path, data: PathName | None) -> dict[str, object]:
    """The options of `prepare`, with whole paths; UserError for a file that is not there."""
    if data is None and recipe.files:
        expected = f"the folder with {', '.join(recipe.files.values())}"
        raise UserError(f"data: found none, expected {expected}")
    if data is not None and not recipe.files:
        raise UserError(f"data: found {data}, expected none: {file.name} reads no files")
    paths = {option: Path(data or "", below) for option, below in recipe.files.items()}
    options = {**recipe.options, **paths}
    try:
        known = {each.name: each for each in fields(chosen_options(recipe.format, options))}
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    for option, path in paths.items():
        if not path.exists():
            what = known[option].metadata["help"]
            flag = f"--{option.replace('_', '-')} of p5jax data prepare {recipe.format}"
            source = f"the head of {file} says where it comes from"
            raise UserError(f"{path}: not found, expected {what} ({flag}); {source}")
    return options


def _prepare(format: str, options: Mapping[str, object], folder: Path) -> None:
    """Make the dataset; one that is there must be what would be made, and is left as it is."""
    if not DATASET_FOLDER.is_at(folder):
        prepare(format, folder, **options)
        return
    with tempfile.TemporaryDirectory() as beside:
        again = prepare(format, Path(beside) / "data", **options)
        if again.fingerprint != Dataset.load(folder).fingerprint:
            expected = "what the recipe makes of these files; choose another folder"
            raise UserError(f"{folder}: found another dataset, expected {expected}")


def _audit(dataset: Dataset) -> None:
    audited = audit(dataset, distributed.report)
    distributed.report(format_audit(audited))
    if audited["leaks"]:
        raise UserError(f"{dataset.path}: {audited['leaks'][0]}")


def _evaluate(run: Run | PprRun, recipe: RecipeConfig) -> list[FamilyResult]:
    if isinstance(run, PprRun):
        return run.evaluate()
    return evaluate(run, families=recipe.families, prompts=recipe.prompts)
