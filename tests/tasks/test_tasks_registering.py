"""Registering tasks: from arguments, a run folder and gin files."""

from __future__ import annotations

import pytest
from native_stream import CONFIG, EPOCHS, LENGTHS, PIPELINE, SEED, check_rows

from gin import config as gin
from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.text.vocabulary import Vocabulary

pytestmark = pytest.mark.extras
seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")

import p5jax.tasks  # noqa: E402
from p5jax.tasks.registry import examples_of  # noqa: E402


def test_registering_again(small, world, vocabulary_folder, tmp_path):
    again = {"config": CONFIG, "epochs": EPOCHS, "seed": SEED, "name": "small"}
    before = set(seqio.TaskRegistry.names())
    assert p5jax.tasks.register(world.path, str(vocabulary_folder), **again) == small == "p5_small"
    assert set(seqio.TaskRegistry.names()) == before
    for change in ({"seed": 8}, {"epochs": 3}, {"families": ["rating"]}, {"prompts": ("1-3",)}):
        with pytest.raises(UserError, match="p5_small.* is registered already"):
            p5jax.tasks.register(world.path, vocabulary_folder, **again | change)
    assert set(seqio.TaskRegistry.names()) == before


def test_registering_a_choice_of_prompts(world, vocabulary_folder):
    name = p5jax.tasks.register(
        world.path, vocabulary_folder, prompts=["2-3", "2-1", "2-13"], name="few"
    )
    tasks = {task for task in seqio.TaskRegistry.names() if task.startswith("p5_few")}
    suffixes = ("", "_zeroshot", "_2_1", "_2_3", "_2_13")
    assert tasks == {f"p5_few_sequential{suffix}" for suffix in suffixes}
    assert [t.name for t in seqio.MixtureRegistry.get(name).tasks] == ["p5_few_sequential"]


@pytest.mark.filterwarnings("error::RuntimeWarning")  # such as a mean of no rating
def test_without_ratings_nothing_asks_for_them(tmp_path, vocabulary_folder):
    raw = synthetic_raw(users=60, items=40, seed=0)
    build_dataset(raw, tmp_path / "d", ratings=False)
    p5jax.tasks.register(tmp_path / "d", vocabulary_folder, config=CONFIG, name="unrated")
    tasks = {task for task in seqio.TaskRegistry.names() if task.startswith("p5_unrated")}
    assert {"p5_unrated_sequential", "p5_unrated_review", "p5_unrated_direct"} < tasks
    assert not [task for task in tasks if "rating" in task]
    judges = {
        str(metric) for task in tasks for metric in seqio.get_mixture_or_task(task).metric_fns
    }
    assert judges
    assert not [judge for judge in judges if "stars" in judge]
    with pytest.raises(UserError, match=r"rating asked for, but the dataset .* has no ratings"):
        p5jax.tasks.register(tmp_path / "d", vocabulary_folder, families=["rating"], name="other")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dataset": "absent"}, "not a dataset folder"),
        ({"vocabulary": "absent.model"}, "expected a SentencePiece model"),
        ({"templates": "amazn"}, "did you mean amazon"),
        ({"prompts": ("2-31",)}, "2-31.*did you mean"),
        ({"families": ("ratings",)}, "found 'ratings'"),
        ({"epochs": 0}, "epochs: found 0"),
        ({"name": "a/b"}, "found 'a/b', expected letters"),
    ],
)
def test_wrong_arguments_are_one_line(world, vocabulary_folder, change, match):
    arguments = {"dataset": world.path, "vocabulary": vocabulary_folder, "name": "wrong"} | change
    with pytest.raises(UserError, match=match) as error:
        p5jax.tasks.register(**arguments)
    assert "\n" not in str(error.value)
    assert not [name for name in seqio.TaskRegistry.names() if name.startswith("p5_wrong")]


def test_id_tokens_must_be_in_the_vocabulary(tmp_path, vocabulary_folder):
    from p5jax.data.building import build_dataset
    from p5jax.data.readers.synthetic import synthetic_raw

    build_dataset(synthetic_raw(users=60, items=30, seed=0), tmp_path / "d", scheme="token", seed=0)
    with pytest.raises(UserError, match=r"found no <i0_0>, expected all 30 id tokens"):
        p5jax.tasks.register(tmp_path / "d", vocabulary_folder, name="tokens")
    # A SentencePiece file, on the other hand, gets them.
    model = vocabulary_folder / "sentencepiece.model"
    name = p5jax.tasks.register(tmp_path / "d", model, name="tokens")
    vocabulary = p5jax.tasks.vocabulary_of(name).vocabulary
    assert set(vocabulary.id_tokens) == {f"<i0_{n}>" for n in range(30)}


def test_a_run_folder_gives_its_own_tasks(world, tmp_path, native):
    from p5jax.models.t5 import T5Config
    from p5jax.runs.run import Run, RunConfig

    config = RunConfig(
        str(world.path), str(tmp_path / "run"), families=("rating", "review"), vocabulary_size=400
    )
    run = Run.create(config, CONFIG, T5Config(vocab_size=0))
    name = p5jax.tasks.register_run(tmp_path / "run", epochs=EPOCHS, seed=SEED, name="run")
    assert name == p5jax.tasks.register_run(tmp_path / "run", epochs=EPOCHS, seed=SEED, name="run")
    assert len(seqio.MixtureRegistry.get(name).tasks) == 2
    assert p5jax.tasks.vocabulary_of(name).vocabulary.fingerprint == run.vocabulary.fingerprint
    rows = seqio.TaskRegistry.get("p5_run_review").get_dataset(LENGTHS, "test", shuffle=False)
    family = run.families["review"]
    size = family.size("test")
    found = check_rows(
        rows.as_numpy_iterator(), range(size), family, "test", run.vocabulary, PIPELINE
    )
    assert found == size
    # The same vocabulary without a run.
    command = ["data", "vocabulary", str(world.path), "--size", "400"]
    assert main([*command, "--out", str(tmp_path / "v")]) == 0
    assert Vocabulary.load(tmp_path / "v").fingerprint == run.vocabulary.fingerprint
    # An unrelated folder is kept.
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert (tmp_path / "run" / "run.json").is_file()


@gin.configurable
class Reader:
    """What a t5x gin file would give to its trainer and its model."""

    def __init__(self, mixture, vocabulary):
        self.mixture, self.vocabulary = mixture, vocabulary


@pytest.mark.parametrize("dynamic", [False, True])
def test_gin_files_name_tasks_and_vocabulary(world, vocabulary_folder, dynamic):
    head = "from __gin__ import dynamic_registration\n" if dynamic else ""
    text = f"""{head}
import p5jax.tasks
from p5jax.prompts import families
import test_tasks_registering
MIXTURE_OR_TASK_NAME = @p5jax.tasks.register()
p5jax.tasks.register.dataset = '{world.path}'
p5jax.tasks.register.vocabulary = '{vocabulary_folder}'
p5jax.tasks.register.name = 'gin_{dynamic}'
p5jax.tasks.register.families = ['rating', 'direct']
p5jax.tasks.register.config = @FamilyConfig()
FamilyConfig.max_source = 300
p5jax.tasks.vocabulary_of.name = %MIXTURE_OR_TASK_NAME
test_tasks_registering.Reader.mixture = %MIXTURE_OR_TASK_NAME
test_tasks_registering.Reader.vocabulary = @p5jax.tasks.vocabulary_of()
"""
    if dynamic:
        text = text.replace("FamilyConfig", "families.FamilyConfig")
    try:
        gin.clear_config()
        gin.parse_config(text)
        read = Reader()
    finally:
        gin.clear_config()
    assert read.mixture == f"p5_gin_{dynamic}"
    assert {t.name for t in seqio.MixtureRegistry.get(read.mixture).tasks} == {
        f"p5_gin_{dynamic}_rating",
        f"p5_gin_{dynamic}_direct",
    }
    task = seqio.TaskRegistry.get(f"p5_gin_{dynamic}_direct")
    assert read.vocabulary == task.output_features["inputs"].vocabulary
    assert examples_of(task).family.source.config.max_source == 300
