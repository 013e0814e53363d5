"""p5jax reproduce: recipes found, refused, run, resumed, and judged by their bands."""

from __future__ import annotations

import numpy as np
import pytest
from kept_training import last_params, stopped_at

from p5jax.cli.main import main
from p5jax.core.errors import Interrupted, UserError
from p5jax.evaluation.recipe import Figure
from p5jax.jobs import reproduce as module
from p5jax.jobs.reproduce import Reproduction, reproduce

STEPS = 4
P5 = f"""
include 'runs/p5.gin'
STEPS = {STEPS}
BATCH_SIZE = 4
RunConfig.families = ('sequential',)
RunConfig.prompts = ('2-3', '2-13')
RunConfig.vocabulary_size = 300
FamilyConfig.max_source = 64
PipelineConfig.source_lengths = (64,)
PipelineConfig.target_lengths = (8,)
TrainConfig.checkpoint_every = 1
ValidationConfig.examples = 0
T5Config.emb_dim = 16
T5Config.mlp_dim = 16
T5Config.num_heads = 2
T5Config.num_encoder_layers = 1
T5Config.num_decoder_layers = 1
"""
BACKBONE = f"""
include 'ppr/sasrec.gin'
STEPS = {STEPS}
BATCH_SIZE = 4
BackboneConfig.emb_dim = 8
BackboneConfig.num_layers = 1
BackboneConfig.num_heads = 1
BackboneConfig.mlp_dim = 8
BackboneConfig.max_history = 8
RecipeConfig.job = 'pretrain'
"""
DATA = """
RecipeConfig.format = 'sequences'
RecipeConfig.files = {'sequences': 'shop/sequences.txt'}
RecipeConfig.options = {'k_core': 2, 'item_ids': 'token'}
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder to work in, with the raw file of a small shop below data/."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = [
        " ".join(map(str, [user, *(rng.permutation(12)[:6] + 1).tolist()])) for user in range(1, 25)
    ]
    (tmp_path / "data/shop").mkdir(parents=True)
    (tmp_path / "data/shop/sequences.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def recipe(folder, band="None", settings=P5, prompt="2-3", data=DATA):
    expected = f"RecipeConfig.expected = {{'sequential {prompt} HR@10': {band}}}\n"
    file = folder / "shop.gin"
    file.write_text(settings + data + expected)
    return str(file)


def refused(capsys, *words):
    """The one line that a call is refused with; nothing is made."""
    assert main(["reproduce", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("p5jax: error: ")


def test_an_unknown_recipe_is_refused_with_the_nearest(shop, capsys):
    for name in ("beuty", "quikstart"):
        line = refused(capsys, name)
        assert line.startswith(f"{name}: no such gin file; did you mean ")
    assert "quickstart" in line
    assert {path.name for path in shop.iterdir()} == {"data"}


def test_a_missing_file_is_named_with_what_it_should_be(shop, capsys):
    file = recipe(shop)
    (shop / "data/shop/sequences.txt").unlink()
    assert refused(capsys, file, "--data", "data") == (
        "data/shop/sequences.txt: not found, expected the sequence file (--sequences of p5jax data"
        f" prepare sequences); the head of {file} says where it comes from"
    )
    line = refused(capsys, "toys", "--data", "data")
    assert line.startswith("data/amazon/toys/sequential_data.txt: not found, expected the sequence")
    assert not (shop / "runs").exists()


def test_the_folder_of_the_data_is_given_where_there_are_files(shop, capsys):
    line = refused(capsys, recipe(shop))
    assert line == "data: found none, expected the folder with shop/sequences.txt"
    line = refused(capsys, "quickstart", "--data", "data")
    assert line == "data: found data, expected none: quickstart.gin reads no files"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "shop.gin: RecipeConfig.format must be set"),
        (DATA.replace("'sequences'\n", "'sequence'\n"), "shop.gin: RecipeConfig.format: found"),
        (DATA.replace("k_core", "kcore"), "shop.gin: prepare sequences: found option 'kcore'"),
        (DATA.replace("'k_core': 2", "'k_core': 0"), "shop.gin: SequencesOptions.k_core: found 0"),
        (DATA.replace("{'seq", "{'items': 'i', 'seq"), "data/i: not found, expected item table"),
        (DATA.replace("{'sequences'", "{'items'"), "shop.gin: prepare sequences: found no seq"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_before_anything_is_made(shop, capsys, data, message):
    assert message in refused(capsys, recipe(shop, data=data), "--data", "data")
    assert not (shop / "runs").exists()


def test_a_seed_and_a_folder_that_are_wrong_are_refused_first(shop, capsys):
    words = recipe(shop), "--data", "data"
    assert "TrainConfig.seed: found -1" in refused(capsys, *words, "--seed", "-1")
    assert "shop.gin: exists and is not a run folder" in refused(
        capsys, *words, "--out", "shop.gin"
    )
    assert "data: exists and is not a run folder" in refused(capsys, *words, "--out", "data")
    assert {path.name for path in shop.iterdir()} == {"data", "shop.gin"}


def test_another_dataset_in_its_place_is_refused_and_stays(shop, capsys):
    file = recipe(shop)
    assert main(
        ["data", "prepare", "sequences", "--sequences", "data/shop/sequences.txt"]
        + ["--k-core", "2", "--out", "o-data"]
    ) == 0  # fmt: skip
    before = (shop / "o-data/manifest.json").read_text()
    capsys.readouterr()
    assert main(["reproduce", file, "--data", "data", "--out", "o"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{shop}/o-data: found another dataset, expected what the recipe makes" in line
    assert (shop / "o-data/manifest.json").read_text() == before
    assert not (shop / "o").exists()


@pytest.mark.parametrize(("band", "status"), [((0, 1), 0), ((0.6, 1), 1), (None, 0)])
def test_the_exit_status_tells_whether_a_figure_is_outside(
    world, monkeypatch, capsys, band, status
):
    class Run:
        dataset = world

    figures = [Figure("sequential 2-3 HR@10", 9, (0.5, 0.4, 0.6), band)]
    monkeypatch.setattr(module, "reproduce", lambda *_: Reproduction(Run(), [], figures))
    assert main(["reproduce", "beauty"]) == status
    assert "sequential 2-3 HR@10  9    0.5000" in capsys.readouterr().out


@pytest.mark.check
def test_a_recipe_is_run_resumed_and_judged(shop, capsys):
    """Interrupted anywhere, the same call ends with what an uninterrupted one ends with."""
    file, data = recipe(shop, "(0.0, 1.0)"), shop / "data"
    whole = reproduce(file, data, shop / "whole")
    assert whole.holds
    assert whole.run.path == shop / "whole"
    assert whole.run.dataset.path == shop / "whole-data"
    (figure,) = whole.figures
    (model,) = (each for each in whole.results if not each.baseline)
    assert (figure.interval, figure.n) == (model.metrics["HR@10"], 24)
    assert {each.prompt_id for each in whole.results} > {"popularity", "markov"}

    words = ["reproduce", file, "--data", "data"]
    with stopped_at(3):
        assert main(words) == 130 - 2 + 15
    with pytest.raises(Interrupted), stopped_at(1):
        reproduce(file, data, "runs/shop")
    capsys.readouterr()
    assert main(words) == 0
    assert f"sequential 2-3 HR@10  24    {figure.interval[0]:.4f}" in capsys.readouterr().out
    for one, other in zip(
        *(_leaves(shop / folder) for folder in ("whole", "runs/shop")), strict=True
    ):
        np.testing.assert_array_equal(one, other, strict=True)

    # Another band is no other run; what is outside is told by the status.
    recipe(shop, f"({figure.interval[0] + 0.001}, 2.0)")
    assert main(words) == 1
    assert "OUTSIDE" in capsys.readouterr().out
    recipe(shop)
    assert main(words) == 0
    assert "not judged: no band measured yet" in capsys.readouterr().out
    # Another seed is.
    with pytest.raises(UserError, match=r"seed = 0, expected 1.*choose another folder"):
        reproduce(file, data, seed=1)


def _leaves(folder):
    import jax

    return jax.tree.leaves(last_params(folder))


@pytest.mark.check
def test_a_backbone_is_reproduced_by_the_same_call(shop):
    file = recipe(shop, "(0.0, 1.0)", BACKBONE, "backbone")
    found = reproduce(file, shop / "data", seed=3)
    assert found.holds
    assert found.figures[0].n == 24
    assert found.run.manifest["settings"]["training"]["seed"] == 3
    assert found.run.manifest["settings"]["sequences"]["seed"] == 3
