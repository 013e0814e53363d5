"""`p5jax tasks …`: what is printed, and the one line for what is wrong."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

from p5jax.cli.main import COMMANDS, main
from p5jax.prompts.families import FamilyConfig, make_families
from p5jax.prompts.template_files import load_templates

pytestmark = pytest.mark.extras
seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")


@pytest.fixture(scope="module")
def named(world, world_vocabulary, tmp_path_factory):
    """The arguments that name the world's tasks."""
    folder = tmp_path_factory.mktemp("vocabulary") / "vocabulary"
    world_vocabulary.save(folder)
    return ["--dataset", str(world.path), "--vocabulary", str(folder), "--epochs", "2"]


@pytest.fixture(scope="module")
def native(world, world_vocabulary):
    return make_families(world, load_templates("amazon"), world_vocabulary, FamilyConfig())


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Forget afterwards what the commands set for workers."""
    for name in ("RUN", "DATASET", "VOCABULARY", "TEMPLATES", "EPOCHS", "SEED"):
        monkeypatch.setenv(f"P5JAX_{name}", "")
        monkeypatch.delenv(f"P5JAX_{name}")


def failure(capsys, command) -> str:
    assert main(command) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("p5jax: error: ")
    return line


def test_defaults_are_the_library_s():
    from p5jax.tasks import register, register_run
    from p5jax.tasks.caching import cache_tasks
    from p5jax.tasks.inspection import show

    arguments = vars(COMMANDS["tasks show"].parse(["name", "--run", "r"]))
    arguments |= vars(COMMANDS["tasks cache"].parse(["name", "--out", "o", "--run", "r"]))
    for function, names in (
        (register, ("epochs", "seed")),
        (register_run, ("epochs", "seed")),
        (show, ("targets",)),
        (cache_tasks, ("shards",)),
    ):
        parameters = inspect.signature(function).parameters
        assert {name: arguments[name] for name in names} == {
            name: parameters[name].default for name in names
        }


def test_list(named, native, capsys):
    assert main(["tasks", "list", *named]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, family in native.items():
        (row,) = [line.split() for line in lines if line.startswith(f"p5_synthetic_{name} ")]
        counts = [int(cell.replace(",", "")) for cell in row[1:]]
        assert counts == [2 * family.size("train"), family.size("validation"), family.size("test")]
    start = lines.index("p5_synthetic: mixture at rates")
    rates = dict(line.split() for line in lines[start + 1 : start + 6])
    total = sum(family.size("train") for family in native.values())
    for name, family in native.items():
        assert float(rates[f"p5_synthetic_{name}"]) == pytest.approx(
            family.size("train") / total, abs=1e-4
        )
    assert "p5_synthetic_without_review: mixture at rates" in lines


@pytest.fixture(scope="module")
def tokens(native, world_vocabulary):
    """Prompt 2-3 on the test split: each example's tokens, and the middle length of its inputs."""
    family = native["sequential"]
    examples = [family.example("test", i, None, "2-3") for i in range(family.size("test", "2-3"))]
    inputs = [[*world_vocabulary.encode(example.inputs), 1] for example in examples]
    targets = [[*world_vocabulary.encode(example.targets), 1] for example in examples]
    return examples, inputs, targets, sorted(map(len, inputs))[len(inputs) // 2]


def test_show_a_task(named, native, tokens, world_vocabulary, capsys):
    """A prompt that is longer than --inputs is shown as max_source = --inputs makes it."""
    examples, inputs, targets, middle = tokens
    short = native["sequential"].with_max_source(middle)
    name = "p5_synthetic_sequential_2_3"
    options = ["-n", "4", "--split", "test", "--inputs", str(middle), "--targets", "2"]
    assert main(["tasks", "show", name, *options, *named]) == 0
    out = capsys.readouterr().out
    places = re.findall(r"epoch (\d+) index (\d+)  prompt 2-3  judged as catalogue", out)
    assert len(places) == 4
    for epoch, index in places:
        assert epoch == "0"
        example = short.example("test", int(index), None, "2-3")
        assert example.inputs.split()[-3:] == examples[int(index)].inputs.split()[-3:]
        assert f"  inputs   {example.inputs}\n" in out
        assert f"  targets  {example.targets}\n" in out
        shown = [*world_vocabulary.encode(example.inputs), 1]
        assert len(shown) <= middle
        pieces = " ".join(map(world_vocabulary.piece, shown))
        assert f"{len(shown):4d} ids {pieces}\n" in out
    for name, rows, limit in (("inputs ", inputs, middle), ("targets", targets, 2)):
        lengths = [len(row) for row in rows]
        cut = sum(n > limit for n in lengths) / len(lengths)
        assert 0 < cut < 1 or name == "targets"
        mean = sum(lengths) / len(lengths)
        line = f"{name}  mean {mean:6.1f}  longest {max(lengths):4d}  truncated to {limit}"
        assert f"  {line}: {cut:.1%}\n" in out


def test_a_prompt_that_cannot_be_shown_is_one_line(named, capsys):
    command = ["tasks", "show", "p5_synthetic_sequential_2_3", "--inputs", "4", *named]
    assert re.search(r"prompt 2-3: needs \d+ tokens, 4 are allowed", failure(capsys, command))


def test_show_counts_what_rendering_drops(world, world_vocabulary, tokens, tmp_path):
    """Under a small max_source, prompts lose history before they are tokenised."""
    import p5jax.tasks
    from p5jax.tasks.inspection import show

    _, inputs, _, middle = tokens
    world_vocabulary.save(tmp_path / "v")
    config = FamilyConfig(max_source=middle)
    p5jax.tasks.register(
        world.path, tmp_path / "v", config=config, prompts=("2-3",), epochs=1, name="tight"
    )
    out = show("p5_tight_sequential_2_3", "test", 1)
    cut = sum(len(row) > middle for row in inputs) / len(inputs)
    assert 0 < cut < 1
    assert f"truncated to {middle}: {cut:.1%}" in out


def test_show_a_mixture(named, capsys):
    assert main(["tasks", "show", "p5_synthetic", "-n", "6", *named]) == 0
    out = capsys.readouterr().out
    shares = re.findall(r"^p5_synthetic_\w+  rate (\S+)$", out, re.MULTILINE)
    assert len(shares) == 5
    assert sum(map(float, shares)) == pytest.approx(1, abs=1e-3)
    assert len(re.findall(r"judged as", out)) == 6


def test_mistakes_are_one_line(named, world, tmp_path, capsys):
    line = failure(capsys, ["tasks", "show", "p5_synthetic_sequentia", *named])
    assert "found 'p5_synthetic_sequentia'" in line
    assert "did you mean p5_synthetic_sequential" in line
    line = failure(capsys, ["tasks", "show", "p5_synthetic_rating_1_10", *named])
    assert "no train examples" in line
    assert "found n = 0" in failure(capsys, ["tasks", "show", "p5_synthetic", "-n", "0", *named])
    assert "expected --run RUN alone, or" in failure(capsys, ["tasks", "list"])
    for more in (named, named[:2], ["--templates", "yelp"]):
        assert "expected --run RUN alone" in failure(capsys, ["tasks", "list", "--run", "r", *more])
    assert "not a run folder" in failure(capsys, ["tasks", "list", "--run", str(tmp_path)])
    wrong = ["--dataset", str(tmp_path), "--vocabulary", named[3]]
    assert "not a dataset folder" in failure(capsys, ["tasks", "list", *wrong])
    wrong = ["--dataset", str(world.path), "--vocabulary", str(tmp_path)]
    assert "not a vocabulary" in failure(capsys, ["tasks", "list", *wrong])
    assert "unknown argument '--runner=X'" in failure(capsys, ["tasks", "list", "--runner=X"])


def test_without_the_extra(named, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("p5jax.tasks")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "seqio", None)
    line = failure(capsys, ["tasks", "list", *named])
    assert "seqio" in line
    assert "pip install 'p5jax[seqio]'" in line


def test_without_beam(named, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    command = ["tasks", "cache", "p5_synthetic_rating", "--out", str(tmp_path / "c"), *named]
    assert "pip install 'p5jax[seqio,beam]'" in failure(capsys, [*command, "--", "--runner=X"])
    assert not (tmp_path / "c").exists()
    unknown = ["tasks", "cache", "p5_synthetic_ratin", "--out", str(tmp_path / "c"), *named]
    assert "did you mean p5_synthetic_rating" in failure(capsys, unknown)


def test_environment_names_what_is_registered(named, world, monkeypatch):
    from p5jax.core.errors import UserError
    from p5jax.tasks.environment import register_from

    both = {"P5JAX_DATASET": named[1], "P5JAX_VOCABULARY": named[3], "P5JAX_EPOCHS": "2"}
    assert register_from(both) == "p5_synthetic"
    with pytest.raises(UserError, match="P5JAX_VOCABULARY is not set"):
        register_from({"P5JAX_DATASET": named[1]})
    with pytest.raises(UserError, match="P5JAX_SEED: found 'one'"):
        register_from(both | {"P5JAX_SEED": "one"})


@pytest.mark.check
def test_an_error_while_reading_ahead_ends_the_process(named):
    program = f"""
import seqio, p5jax.tasks
from p5jax.core.errors import UserError
name = p5jax.tasks.register({named[1]!r}, {named[3]!r}, epochs=2)
family = seqio.TaskRegistry.get(name + "_rating").preprocessors[0].__self__.family
example = family.example
def failing(split, index, *rest):
    if index == 7:
        raise UserError("too long")
    return example(split, index, *rest)
family.example = failing
lengths = {{"inputs": 512, "targets": 64}}
for row in seqio.get_mixture_or_task(name).get_dataset(lengths, seed=0).as_numpy_iterator():
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "too long" in done.stderr
