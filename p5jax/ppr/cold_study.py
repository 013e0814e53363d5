"""The whole cold-start study: protocol, pre-training, tuning in every mode and evaluation, by seed.

Every part has its own folder, and is not repeated once it is finished.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from jax.sharding import Mesh

from p5jax.core.documents import read_json
from p5jax.core.errors import UserError
from p5jax.core.files import replace_text
from p5jax.core.folder import OutputFolder
from p5jax.core.kinds import Checksum
from p5jax.core.lock import released
from p5jax.core.progress import Report
from p5jax.core.settings import SHARE, SIZE, check
from p5jax.data.dataset import Dataset
from p5jax.parallel import distributed
from p5jax.ppr.backbone.catalogue import Scorer
from p5jax.ppr.backbone.pretraining import PretrainConfig, pretrain
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.cold.cross_domain import DomainPair, user_states
from p5jax.ppr.cold.evaluation import BASELINES, evaluate_cold
from p5jax.ppr.cold.leaks import find_cold_leaks
from p5jax.ppr.cold.protocol import ColdStart, ColdStartConfig, cold_start
from p5jax.ppr.cold.results import read_per_user, write_per_user
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig, fit_profiles
from p5jax.ppr.tuned import Profile, Tuned, tune
from p5jax.ppr.tuning import TuneConfig
from p5jax.training.checkpoints import params_fingerprint
from p5jax.training.trainer import CHECKPOINT_FOLDER

Made = TypeVar("Made")
PER_USER, SECONDS = "per_user.parquet", "seconds.json"
PRETRAINED = "pretrain"  # the pre-trained model as it is
STUDY_ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "contrastive": {
        "light without prompt part": {"contrast_prompt": False},
        "light without behaviour part": {"contrast_behaviour": False},
        "light without contrastive": {"contrast_prompt": False, "contrast_behaviour": False},
    }
}
NOISE = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class StudyConfig:
    """All settings of a study, whose seeds replace those within.

    tune: for every mode, which replaces its own. ablate: names of STUDY_ABLATIONS. noise: shares of
    replaced attributes at which `light` is tuned and tested again.
    """

    seeds: int = 5
    ablate: tuple[str, ...] = ()
    noise: tuple[float, ...] = ()
    protocol: ColdStartConfig = field(default_factory=ColdStartConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    pretraining: PretrainConfig = field(default_factory=PretrainConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)

    def __post_init__(self) -> None:
        check(self, seeds=SIZE, ablate=STUDY_ABLATIONS, noise=SHARE)

    def methods(self) -> dict[str, TuneConfig]:
        """The tunings of one seed by name."""
        methods = {mode: replace(self.tune, mode=mode) for mode in ("finetune", "light", "full")}
        light = methods["light"]
        for ablation in self.ablate:
            for name, changes in STUDY_ABLATIONS[ablation].items():
                methods[name] = replace(light, **changes)
        for share in self.noise:
            methods[noise_method(share)] = replace(light, profile_noise=share)
        return methods


class _Manifest(TypedDict):
    dataset: Checksum
    settings: StudyConfig
    source: Checksum | None


STUDY = OutputFolder("study", "study.json", 1, "p5jax ppr study", contents=_Manifest)


@released()
def study(
    dataset: Dataset,
    config: StudyConfig,
    out: str | Path,
    *,
    source: PprRun | None = None,
    mesh: Mesh | None = None,
    report: Report = distributed.report,
) -> pa.Table:
    """Run, or resume, a study; returns all per-user results.

    With a `source`, the backbone of another dataset that shares users, the profiles are the users'
    states there, and the cold users are sampled from the shared ones (see cross_domain).

    OUT/seed-N holds, for each seed, `pretrain`, a folder per method, and the per-user results; what
    is finished is not repeated. Interrupted by a signal, after which the same call resumes.
    UserError when `out` holds a study of other data or settings.
    """
    if source is not None and config.noise:
        raise UserError("noise: found shares of replaced attributes, expected none with a source")
    folder = Path(out)
    distributed.from_primary(lambda: _claim(folder, dataset, config, source))
    tables = []
    for seed in range(config.seeds):
        own = folder / f"seed-{seed}"
        part = _Seed(dataset, config, seed, own, mesh, report, source)
        part.run()
        table = read_per_user(own / PER_USER)  # of ablations too that another call asked for
        asked = pa.array([*config.methods(), PRETRAINED, *BASELINES])
        tables.append(table.filter(pc.is_in(table["method"], asked)))
    return pa.concat_tables(tables)


class _Seed:
    """One seed's share of a study."""

    def __init__(
        self,
        dataset: Dataset,
        config: StudyConfig,
        seed: int,
        folder: Path,
        mesh: Mesh | None,
        report: Report,
        source: PprRun | None,
    ) -> None:
        self.dataset, self.config, self.seed, self.folder = dataset, config, seed, folder
        self.mesh, self.report = mesh, report
        protocol = replace(config.protocol, seed=seed)
        self.split: ColdStart
        self.profile: Profile
        if source is None:
            self.split = cold_start(dataset, protocol)
            self.profile = fit_profiles(dataset, self.split.training_users, config.profile)
        else:
            pair = DomainPair.of(source.dataset, dataset)
            self.split = pair.cold_start(protocol)
            states = user_states(source.model, source.params)
            found = pair.profiles(states, source.model.config.max_history)
            self.profile = found.standardised(self.split.training_users).vectors

    def run(self) -> None:
        """Do what is not done yet."""
        methods = self.config.methods()
        there = self._results()
        if there is not None and set(methods) <= set(there["method"].to_pylist()):
            self.report(f"seed {self.seed}: finished")
            return
        self._refuse_leaks()
        backbone = self._timed(PRETRAINED, self._pretrain)
        scorers: dict[str, Scorer] = {PRETRAINED: backbone.scorer}
        for name, settings in methods.items():
            tuned = self._timed(name, partial(self._tune, backbone, settings, name))
            scorers[name] = tuned.scorer
        table = self._timed("evaluate", partial(evaluate_cold, self.split, scorers))
        if there is not None:  # results of an earlier call are kept
            new = pc.is_in(there["method"], table["method"].combine_chunks())
            table = pa.concat_tables([table, there.filter(pc.invert(new))])
        distributed.from_primary(lambda: write_per_user(self.folder / PER_USER, table))

    def _results(self) -> pa.Table | None:
        path = self.folder / PER_USER
        return read_per_user(path) if path.is_file() else None

    def _refuse_leaks(self) -> None:
        split = self.split
        leaks = find_cold_leaks(split, [split.cases("joint", split.train)], [split.cases("joint")])
        if leaks:
            raise UserError(f"{self.dataset.path}: {leaks[0]}")

    def _pretrain(self) -> PprRun:
        own = self.config.pretraining
        seeded = replace(
            own,
            training=replace(own.training, seed=self.seed),
            sequences=replace(own.sequences, seed=self.seed),
        )
        path = self.folder / PRETRAINED
        return pretrain(self.dataset, seeded, path, self.split.warm, self.mesh)

    def _tune(self, backbone: PprRun, settings: TuneConfig, name: str) -> Tuned:
        settings = replace(settings, seed=self.seed, noise_seed=self.seed)
        path = self.folder / folder_name(name)
        prompt = self.config.prompt
        return tune(backbone, self.split, self.profile, settings, prompt, path, self.mesh)

    def _timed(self, name: str, part: Callable[[], Made]) -> Made:
        """Do a part; its seconds are added to those of earlier starts."""
        self.report(f"seed {self.seed}: {name}")
        started = time.monotonic()
        try:
            made = part()
        finally:
            seconds = self._add_seconds(name, time.monotonic() - started)
        self.report(f"seed {self.seed}: {name} took {seconds} s")
        return made

    def _add_seconds(self, name: str, more: float) -> float:
        """Add the seconds of a start to those of the earlier ones; return the sum."""
        file = self.folder / SECONDS
        seconds = _read_seconds(file) if file.is_file() else {}
        seconds[name] = round(seconds.get(name, 0.0) + more, 1)
        text = json.dumps(seconds, indent=1) + "\n"
        if distributed.is_primary():
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, text)
        return seconds[name]


def noise_method(share: float) -> str:
    """The name of `light` with a share of replaced attributes."""
    return f"light, {share:.0%} noise"


def noise_share(method: str) -> float | None:
    """The share of replaced attributes in a method's name; None when it is another method."""
    found = re.fullmatch(r"light, (\d+)% noise", method)
    return int(found[1]) / 100 if found else None


def folder_name(method: str) -> str:
    """The folder of a method's tuning within that of its seed."""
    return method.replace(", ", "-").replace(" ", "-").replace("%", "")


def _read_seconds(file: Path) -> dict[str, float]:
    seconds: dict[str, float] = read_json(file, dict[str, float], "the seconds of a study's parts")
    return seconds


def total_seconds(folder: str | Path) -> dict[str, float]:
    """The seconds of each part of a study, summed over its seeds."""
    total: dict[str, float] = {}
    for file in sorted(Path(folder).glob(f"seed-*/{SECONDS}")):
        for name, seconds in _read_seconds(file).items():
            total[name] = round(total.get(name, 0.0) + seconds, 1)
    return total


def _claim(folder: Path, dataset: Dataset, config: StudyConfig, source: PprRun | None) -> None:
    """Make the folder, or see that it is a study of the same data and settings.

    A later call may ask for more seeds, ablations or noise.
    """
    settings = asdict(config)
    settings["pretraining"]["training"] = config.pretraining.training.identity()
    for more in ("seeds", "ablate", "noise"):
        del settings[more]
    wanted = {
        "dataset": dataset.fingerprint,
        "settings": settings,
        "source": None if source is None else params_fingerprint(source.params),
    }
    started = any(folder.glob(f"seed-*/*/{CHECKPOINT_FOLDER}/*"))
    STUDY.claim(folder, wanted, started=started)
    STUDY.write(folder, wanted)
