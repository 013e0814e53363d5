"""The folder of a tuned model, made from a backbone and profiles and opened with that backbone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
from jax.sharding import Mesh

from p5jax.core.errors import UserError
from p5jax.core.files import replaced
from p5jax.core.folder import OutputFolder, as_json
from p5jax.core.kinds import Checksum, built
from p5jax.core.lock import released
from p5jax.core.tables import read_array
from p5jax.models.initial import Params, fresh_params, logical_axes
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import MeshConfig, make_mesh, process_share
from p5jax.ppr.backbone.model import backbone_axes
from p5jax.ppr.backbone.run import PprRun, backbone_entry
from p5jax.ppr.cold.evaluation import rank_cases
from p5jax.ppr.cold.protocol import ColdStart, ColdStartConfig
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.model import BACKBONE, PromptedModel, PromptedScorer
from p5jax.ppr.profiles import ProfileSchema
from p5jax.ppr.tuning import (
    MODES,
    CaseIterator,
    Mode,
    TuneConfig,
    tuning_objective,
    validation_users,
)
from p5jax.runs.manifest import BackboneEntry, found_at
from p5jax.training.checkpoints import available_steps, params_fingerprint, restore_params
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import CHECKPOINT_FOLDER, TrainConfig, train

SCHEMA, VECTORS = "profiles.json", "vectors.npy"


class _Manifest(TypedDict):
    backbone: BackboneEntry
    dataset: Checksum
    protocol: ColdStartConfig
    profile: ProfileSchema | Checksum
    tune: TuneConfig
    prompt: PromptConfig


TUNED = OutputFolder(
    *("tuned model", "tuned.json", 2, "p5jax ppr tune"),
    begun=(SCHEMA, VECTORS),
    contents=_Manifest,
    steps="tune.steps",
)
Profile = ProfileSchema | np.ndarray  # attributes, or vectors float32 [U, X]


class Tuned:
    """A tuned model, loaded: its backbone's run, profiles and (lazily) its best parameters."""

    def __init__(
        self, path: Path, manifest: Mapping[str, Any], backbone: PprRun, profile: Profile
    ) -> None:
        self.path, self.manifest, self.backbone = path, manifest, backbone
        self.schema = profile if isinstance(profile, ProfileSchema) else None
        self.config = built(path, TuneConfig, manifest["tune"])
        self.features, sizes = _features(profile, backbone, self.config)
        self.model = PromptedModel(
            backbone.model.config,
            built(path, PromptConfig, manifest["prompt"]),
            sizes,
            MODES[self.config.mode].prompted,
        )

    @cached_property
    def params(self) -> Params:
        """The best checkpoint's parameters."""
        shapes = jax.eval_shape(self.initial)
        params: Params = restore_params(self.path / CHECKPOINT_FOLDER, shapes)
        return params

    @cached_property
    def scorer(self) -> PromptedScorer:
        """The tuned model as a scorer of any histories of the dataset's users."""
        return PromptedScorer(self.model, self.params, self.features)

    def initial(self, seed: int = 0) -> Params:
        """Parameters to start from: the backbone's, and fresh ones."""
        items = np.zeros((1, 1), np.int32)
        params = fresh_params(self.model, jax.random.key(seed), self.features[:1], items)
        return {**params, BACKBONE: self.backbone.params}

    def axes(self) -> dict[str, Any]:
        """The logical axes of the parameters."""
        axes = logical_axes(self.model, self.features[:1], np.zeros((1, 1), np.int32))
        return {**axes, BACKBONE: backbone_axes(self.backbone.model)}

    @staticmethod
    def load(
        path: str | os.PathLike[str], backbone: PprRun | None = None, mesh: Mesh | None = None
    ) -> Tuned:
        """Open a folder with its backbone, given or from where the manifest says.

        UserError when it is no such folder, unfinished, or tuned from another backbone.
        """
        path = Path(path)
        manifest = TUNED.read(path)
        if manifest["tune"]["steps"] not in available_steps(path / CHECKPOINT_FOLDER):
            raise UserError(
                f"{path}: found an unfinished tuning; the same {TUNED.command} resumes it"
            )
        entry = manifest["backbone"]
        if backbone is None:
            backbone = PprRun.load(found_at(entry, path) or entry["path"], mesh)
        found = params_fingerprint(backbone.params)
        if found != entry["params"]:
            raise UserError(
                f"{path}: tuned from a backbone with parameters {entry['params'][:12]};"
                f" {backbone.path} has {found[:12]}"
            )
        profile = _read_profile(path, backbone.dataset.num_users)
        if as_json(_profile_entry(profile)) != manifest["profile"]:
            raise UserError(f"{path}: its profiles differ from those that it was tuned with")
        return Tuned(path, manifest, backbone, profile)


@released()
def tune(
    backbone: PprRun,
    split: ColdStart,
    profile: Profile,
    config: TuneConfig,
    prompt: PromptConfig,
    out: str | os.PathLike[str],
    mesh: Mesh | None = None,
) -> Tuned:
    """Tune, or resume, a prompted model on the cold training users of a split.

    The best step is chosen on a part of them. Returns the tuned model, whose parameters are those
    of that step. Interrupted by a signal. UserError when the backbone was pre-trained on cold
    users, and when `out` holds something else.
    """
    folder = Path(out).absolute()
    mesh = mesh or backbone.mesh or make_mesh(MeshConfig())
    if not backbone.trained_on(split.warm):
        raise UserError(
            f"{backbone.path}: pre-trained on other users than the warm ones of this protocol"
        )
    if not isinstance(profile, ProfileSchema):
        profile = _checked(profile, backbone.dataset.num_users)
    manifest = _manifest(backbone, split, profile, config, prompt, folder)
    distributed.from_primary(lambda: _claim(folder, manifest, profile))
    tuned = Tuned(folder, manifest, backbone, profile)
    users, held_out = validation_users(split.train, config.validation_share)
    cases, mode = split.cases(config.kind, users), MODES[config.mode]
    recent = cases.items_NxS[:, -backbone.model.config.max_history :]
    cases = replace(cases, items_NxS=recent)
    train(
        tuning_objective(tuned.model, config),
        tuned.initial(config.seed),
        tuned.axes(),
        CaseIterator(split, cases, tuned.features, config, *process_share(mesh)),
        OptimizerConfig(
            learning_rate=config.learning_rate or mode.learning_rate,
            schedule="constant",
            warmup_fraction=0.0,
            weight_decay=config.weight_decay,
        ),
        mesh,
        TrainConfig(
            steps=config.steps,
            seed=config.seed,
            log_every=min(100, config.steps),
            validate_every=config.validate_every,
            checkpoint_every=config.steps,
            best_metric="validation/NDCG@10",
            best_mode="max",
        ),
        folder,
        fingerprint={name: manifest[name] for name in ("tune", "prompt", "profile", "protocol")},
        validate=_validator(tuned, split, held_out) if len(held_out) else None,
        trainable=_trainable(mode, tuned.model),
        begun=lambda: distributed.from_primary(lambda: TUNED.write(folder, manifest)),
    )
    return tuned


def _trainable(mode: Mode, model: PromptedModel) -> tuple[str, ...]:
    """The mode's patterns; profiles that are vectors have no embeddings to train."""
    return tuple(p for p in mode.trainable if model.sizes or p != "profile/*")


def _features(
    profile: Profile, backbone: PprRun, config: TuneConfig
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The rows that the model reads of all users, and the attributes' sizes (none for vectors)."""
    if not isinstance(profile, ProfileSchema):
        return np.asarray(profile, np.float32), ()
    profiles = profile.profiles(backbone.dataset)
    if config.profile_noise:
        profiles = profiles.replaced(config.profile_noise, np.random.default_rng(config.noise_seed))
    return profiles.codes_UxM, profiles.sizes


def _validator(
    tuned: Tuned, split: ColdStart, users: np.ndarray
) -> Callable[[Params, int], dict[str, float]]:
    """Return a function (params, step) -> metrics of some tuning users' cases."""
    cases = split.cases(tuned.config.kind, users)

    def validate(params: Params, step: int) -> dict[str, float]:
        scorer = PromptedScorer(tuned.model, params, tuned.features)
        metrics = rank_cases(scorer, cases, split.num_items, "candidates")
        return {f"validation/{name}": float(metrics[name].mean()) for name in ("AUC", "NDCG@10")}

    return validate


def _manifest(
    backbone: PprRun,
    split: ColdStart,
    profile: Profile,
    config: TuneConfig,
    prompt: PromptConfig,
    folder: Path,
) -> dict[str, Any]:
    manifest: dict[str, Any] = as_json(
        {
            "backbone": backbone_entry(backbone, folder),
            "dataset": backbone.dataset.fingerprint,
            "protocol": asdict(split.config),
            "profile": _profile_entry(profile),
            "tune": asdict(config),
            "prompt": asdict(prompt),
        }
    )
    return manifest


def _profile_entry(profile: Profile) -> dict[str, Any] | str:
    """What a manifest says of profiles."""
    if isinstance(profile, ProfileSchema):
        return asdict(profile)
    return params_fingerprint({"vectors": profile})


def _claim(folder: Path, manifest: dict[str, Any], profile: Profile) -> None:
    """Make the folder, or see that it is this tuning's."""
    started = bool(available_steps(folder / CHECKPOINT_FOLDER))
    TUNED.claim(folder, manifest, started=started)
    if isinstance(profile, ProfileSchema):
        profile.save(folder / SCHEMA)
    else:
        with replaced(folder / VECTORS) as beside, beside.open("wb") as file:
            np.save(file, profile)
    if not started:
        TUNED.write(folder, manifest)


def _checked(vectors: np.ndarray, users: int) -> np.ndarray:
    """Return profile vectors as they are kept, float32 [users, X]; UserError for others."""
    with np.errstate(over="ignore"):
        kept = np.asarray(vectors, np.float32)
    if kept.ndim != 2 or len(kept) != users or not np.isfinite(kept).all():
        found = f"{np.asarray(vectors).dtype} of shape {kept.shape}"
        raise UserError(f"profile: found {found}, expected finite float32 of shape ({users}, any)")
    return kept


def _read_profile(path: Path, users: int) -> Profile:
    if (path / VECTORS).is_file():
        widths = np.float32, np.float64, np.float16  # earlier versions kept what they were given
        return read_array(path / VECTORS, widths, (users, None), "profile vectors of all users")
    return ProfileSchema.load(path / SCHEMA)
