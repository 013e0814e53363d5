"""`p5jax ppr predict` and `p5jax ppr study --source` on small dataset folders."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from p5jax.cli.main import main
from p5jax.data.building import build_dataset
from p5jax.data.readers.recbole import read_recbole

USERS, ITEMS = 60, 40
SIZES = ("emb_dim=8", "mlp_dim=8", "max_history=6")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two dataset folders of the same users, and a backbone of each on the CPU in a few steps."""
    root = tmp_path_factory.mktemp("extra")
    rng = np.random.default_rng(0)
    for name in ("films", "books"):
        raw = root / "raw" / name
        raw.mkdir(parents=True)
        rows = [
            f"p{user}\t{name}{item}\t{time}"
            for user in range(USERS)
            for time, item in enumerate(rng.permutation(ITEMS)[:8])
        ]
        header = "user_id:token\titem_id:token\ttimestamp:float"
        (raw / f"{name}.inter").write_text("\n".join([header, *rows]) + "\n")
        people = [f"p{u}\t{'fm'[u % 2]}\t{'xyz'[u % 3]}" for u in range(USERS)]
        header = "user_id:token\tgender:token\ttown:token"
        (raw / f"{name}.user").write_text("\n".join([header, *people]) + "\n")
        build_dataset(read_recbole(raw), root / name, k_core=1)
    pretrain = ["ppr", "pretrain", "--gin_file=ppr/sasrec.gin", "--gin.STEPS=2"]
    pretrain += [f"--gin.BackboneConfig.{size}" for size in SIZES]
    for name, users in (("films", "all"), ("books", "warm")):
        run = [f"--gin.DATASET={root / name}", f"--gin.RUN_DIR={root / name}-run"]
        assert main([*pretrain, *run, f"--gin.PprConfig.users={users}"]) == 0
    return root


def study(root, *options: str) -> list[str]:
    """A cross-domain study of one seed, two steps for everything."""
    words = ["ppr", "study", str(root / "books"), "--seeds", "1", "--out", str(root / "study")]
    words += [f"--gin.BackboneConfig.{size}" for size in SIZES]
    words += ["--gin.PRETRAIN_STEPS=2", "--gin.STEPS=2", "--gin.ColdStartConfig.negatives=20"]
    return [*words, *options]


def predict(root, out: str, *options: str) -> list[str]:
    words = ["ppr", "predict", str(root / "books-run"), "--out", str(root / out)]
    return [*words, "--gin.STEPS=3", "--gin.ColdStartConfig.negatives=20", *options]


@pytest.mark.check
def test_a_cross_domain_study(folders, capsys):
    source = ["--source", str(folders / "films-run")]
    assert main(study(folders, *source)) == 0
    text = capsys.readouterr().out
    for title in ("zero-shot, among frozen", "few-shot, among the whole", "7-shot, among frozen"):
        assert title in text
    for method in ("finetune", "light", "full", "pretrain", "popularity", "early popularity"):
        assert f"\n  {method} " in text
    vectors = np.load(folders / "study" / "seed-0" / "full" / "vectors.npy")
    assert vectors.shape == (USERS, 8)
    assert np.abs(vectors).min(axis=0).max() > 0
    assert main(study(folders, *source)) == 0  # nothing is done twice
    assert capsys.readouterr().out.split("seconds")[0] == text.split("seconds")[0]
    assert main(study(folders)) == 2  # the same folder without a source
    assert "source" in capsys.readouterr().err
    assert main(study(folders, "--noise", *source)) == 2
    assert "expected none with a source" in capsys.readouterr().err


@pytest.mark.check
def test_an_attribute_is_predicted(folders, capsys):
    assert main(predict(folders, "gender", "--attribute", "gender")) == 0
    text = capsys.readouterr().out
    assert text.startswith("gender: 2 classes among 2 test users\n")
    table = pq.read_table(folders / "gender" / "per_user.parquet")
    assert table.column_names == ["seed", "user", "label", "predicted", "majority"]
    assert main(predict(folders, "gender", "--attribute", "gender")) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attribute", "gendre"], "'gendre': found gender, town; did you mean gender?"),
        (["--attribute", "town", "--seed", "1"], "pre-trained on other users than the warm ones"),
        (["--attribute", "town", "--gin.ModeConfig.x=1"], "unknown name 'ModeConfig"),
    ],
)
def test_mistakes_are_one_line(folders, capsys, options, message):
    capsys.readouterr()
    assert main(predict(folders, "absent", *options)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (folders / "absent").exists()


def test_a_prediction_into_a_folder_of_other_things_is_refused(folders, capsys):
    (folders / "thesis").mkdir()
    (folders / "thesis" / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(predict(folders, "thesis", "--attribute", "gender")) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].endswith(
        "exists and is not a profile prediction; choose another folder"
    )
    assert "Traceback" not in error
    assert [path.name for path in (folders / "thesis").iterdir()] == ["notes.txt"]


def test_a_source_without_shared_users(folders, tmp_path, capsys):
    manifest = json.loads((folders / "films-run" / "ppr.json").read_text())
    assert manifest["users"]["count"] == USERS
    raw = tmp_path / "raw" / "strangers"
    raw.mkdir(parents=True)
    rows = [f"q{u}\ti{i}\t{i}" for u in range(9) for i in range(4)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (raw / "strangers.inter").write_text("\n".join([header, *rows]) + "\n")
    build_dataset(read_recbole(raw), tmp_path / "strangers", k_core=1)
    words = ["ppr", "study", str(tmp_path / "strangers"), "--out", str(tmp_path / "out")]
    assert main([*words, "--source", str(folders / "films-run")]) == 2
    error = capsys.readouterr().err
    assert "found no user key in both" in error
    assert len(error.strip().splitlines()) == 1
