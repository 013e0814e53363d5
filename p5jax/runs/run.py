"""The run folder: everything needed to use, resume or judge one trained model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypedDict

import jax
from jax.sharding import Mesh

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder, as_json
from p5jax.core.kinds import Checksum, built
from p5jax.core.settings import SIZE, check
from p5jax.data.dataset import Dataset
from p5jax.models.initial import Params
from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes
from p5jax.models.t5_config import OF_VOCABULARY
from p5jax.parallel import distributed
from p5jax.prompts.families import Family, FamilyConfig, make_families
from p5jax.prompts.template import PromptTemplate
from p5jax.prompts.template_files import chosen_templates, load_templates, save_templates
from p5jax.runs.manifest import DatasetEntry, dataset_entry, load_dataset
from p5jax.text.corpus import corpus
from p5jax.text.vocabulary import Vocabulary
from p5jax.training.checkpoints import available_steps, restore_on_mesh
from p5jax.training.children import Children, children_of
from p5jax.training.trainer import CHECKPOINT_FOLDER


class _Manifest(TypedDict):
    dataset: DatasetEntry
    vocabulary: Checksum
    vocabulary_source: str
    templates: Checksum
    families: list[str]
    family_config: FamilyConfig
    model: T5Config
    initial_checkpoint: str


RUN_FOLDER = OutputFolder(
    "run folder",
    "run.json",
    1,
    "p5jax train",
    begun=("vocabulary", "templates.toml"),
    contents=_Manifest,
)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a run is made of; `dataset` and `run_dir` must be set.

    templates: "amazon", "yelp", a TOML file or P5's all_*_templates.py; prompts: the ids of those
    to use, () for all. families: () for all that the dataset feeds.
    vocabulary: a SentencePiece model file, or "" to train one of `vocabulary_size` pieces.
    initial_checkpoint: a Hugging Face folder, an official P5 .pth file, a t5x checkpoint
        (MODEL_DIR/checkpoint_N, gs://t5-data/…) or a run's own (RUN/checkpoints/checkpoint_N), of
        the sizes that gin gives; or "" for a random start.
    """

    dataset: str
    run_dir: str
    templates: str = "amazon"
    prompts: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    vocabulary: str = ""
    vocabulary_size: int = 4000
    initial_checkpoint: str = ""

    def __post_init__(self) -> None:
        check(self, vocabulary_size=SIZE)


class Run:
    """One run folder, loaded: dataset, vocabulary, prompts, model and (lazily) its parameters."""

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        dataset: Dataset,
        vocabulary: Vocabulary,
        mesh: Mesh | None = None,
        step: int | None = None,
    ):
        self.path = path
        self.step = step
        self.mesh = mesh
        self.manifest = manifest
        self.dataset = dataset
        self.vocabulary = vocabulary
        self.templates: dict[str, PromptTemplate] = load_templates(str(path / "templates.toml"))
        self.family_config = built(path, FamilyConfig, manifest["family_config"])
        sizes = built(path, T5Config, manifest["model"])
        self.model = Transformer(sizes.for_vocabulary(vocabulary))

    @cached_property
    def families(self) -> dict[str, Family]:
        """The run's prompt families over its dataset."""
        names = tuple(self.manifest["families"])
        return make_families(
            self.dataset, self.templates, self.vocabulary, self.family_config, names
        )

    @cached_property
    def children(self) -> Children | None:
        """What can continue an item id, if the likelihood runs over that alone; else None."""
        return children_of(self.model.config, self.vocabulary, self.dataset.item_ids)

    @cached_property
    def params(self) -> Params:
        """The parameters of `step`, or else the best checkpoint's.

        They are on the mesh by their logical axes if there is one.
        """
        shapes = jax.eval_shape(partial(init_params, self.model), jax.random.key(0))
        axes, folder = param_axes(self.model), self.path / CHECKPOINT_FOLDER
        which = "best" if self.step is None else self.step
        return dict(restore_on_mesh(folder, shapes, axes, self.mesh, which))

    def with_params(self, params: Params) -> Run:
        """Return the same run with other parameters of its model."""
        other = Run(self.path, self.manifest, self.dataset, self.vocabulary, self.mesh, self.step)
        other.__dict__ |= {"families": self.families, "params": params}
        return other

    @staticmethod
    def create(
        config: RunConfig, family_config: FamilyConfig, model: T5Config, mesh: Mesh | None = None
    ) -> Run:
        """Make a new run folder, or open the one there when it was made from the same things.

        The folder stays locked (see core.lock). UserError, naming the first difference, when the
        folder there was made from others and has a checkpoint; such a folder is left as it is, to
        `write`.
        """
        path, dataset = Path(config.run_dir).absolute(), Dataset.load(config.dataset)
        templates = chosen_templates(config.templates, config.prompts)

        def started() -> bool:
            return bool(available_steps(path / CHECKPOINT_FOLDER))

        def write_first() -> None:
            # What a run that never trained was made from gives way to what is wanted now.
            if RUN_FOLDER.look(path, {}) is None or not started():
                RUN_FOLDER.claim(path, {})
                make_vocabulary(config, dataset, templates).save(path / "vocabulary")
                save_templates(templates, path / "templates.toml")

        def claim() -> None:
            RUN_FOLDER.claim(path, manifest, started=started())
            if not started():
                RUN_FOLDER.write(path, manifest)

        distributed.from_primary(write_first)
        vocabulary = Vocabulary.load(path / "vocabulary")
        manifest = _manifest(config, dataset, vocabulary, templates, family_config, model)
        distributed.from_primary(claim)
        return Run(path, manifest, dataset, vocabulary, mesh)

    def write(self) -> None:
        """Write the manifest, which a run that is there may lack: its dataset may have moved."""
        distributed.from_primary(lambda: RUN_FOLDER.write(self.path, self.manifest))

    @staticmethod
    def load(
        path: str | os.PathLike[str], mesh: Mesh | None = None, step: int | None = None
    ) -> Run:
        """Open a run folder; UserError when it, its dataset or its vocabulary does not match.

        On a mesh its model is evaluated and ranks over all its devices, else on the first. step:
        of the checkpoint whose parameters it has, None for the best.
        """
        path = Path(path)
        manifest = RUN_FOLDER.read(path)
        dataset = load_dataset(path, manifest)
        vocabulary = Vocabulary.load(path / "vocabulary")
        if vocabulary.fingerprint != manifest["vocabulary"]:
            raise UserError(f"{path}/vocabulary: differs from the one the model was trained with")
        if vocabulary.padded_size != manifest["model"]["vocab_size"]:
            sizes = f"{manifest['model']['vocab_size']}, expected {vocabulary.padded_size}"
            raise UserError(f"{path}/{RUN_FOLDER.manifest}: model: vocab_size: found {sizes}")
        run = Run(path, manifest, dataset, vocabulary, mesh, step)
        if _fingerprint(run.templates) != manifest["templates"]:
            raise UserError(f"{path}/templates.toml: differs from what the model was trained with")
        return run


def make_vocabulary(
    config: RunConfig, dataset: Dataset, templates: dict[str, PromptTemplate]
) -> Vocabulary:
    """Return a run's vocabulary: of its SentencePiece model, or trained on the dataset's text."""
    if config.vocabulary:
        return Vocabulary.from_model(config.vocabulary, dataset.id_tokens)
    texts = corpus(dataset, templates.values())
    return Vocabulary.train(texts, config.vocabulary_size, dataset.id_tokens)


def _fingerprint(templates: dict[str, PromptTemplate]) -> str:
    prompts = json.dumps([dataclasses.asdict(template) for template in templates.values()])
    return hashlib.sha256(prompts.encode()).hexdigest()


def _manifest(
    config: RunConfig,
    dataset: Dataset,
    vocabulary: Vocabulary,
    templates: dict[str, PromptTemplate],
    family_config: FamilyConfig,
    model: T5Config,
) -> dict[str, Any]:
    asked = config.families or None  # None: those that the data and the prompts can feed
    model = dataclasses.replace(model, vocab_size=vocabulary.padded_size)
    fields = dataclasses.asdict(model)
    for name in OF_VOCABULARY:
        del fields[name]
    manifest = {
        "dataset": dataset_entry(dataset, config.run_dir),
        "vocabulary": vocabulary.fingerprint,
        "vocabulary_source": config.vocabulary or f"{config.vocabulary_size} pieces",
        "templates": _fingerprint(templates),
        "families": list(make_families(dataset, templates, vocabulary, family_config, asked)),
        "family_config": dataclasses.asdict(family_config),
        "model": fields,
        "initial_checkpoint": config.initial_checkpoint,
    }
    return dict(as_json(manifest))
