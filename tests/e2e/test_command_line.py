"""The command line end to end on one small run, and what a user types wrong."""

from __future__ import annotations

import errno
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ppr_world import write_sequences
from tiny_training import BATCH_SIZE, BINDINGS, FILES, STEPS

import p5jax
from p5jax.cli.main import main
from p5jax.core.errors import Unwritten, UserError
from p5jax.data.dataset import Dataset
from p5jax.data.families import FAMILIES
from p5jax.evaluation import keeping
from p5jax.models.t5 import T5Config
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig


def train(dataset: Path, run: Path, steps: int, *overrides: str) -> int:
    settings = [
        f"DATASET={dataset}",
        f"RUN_DIR={run}",
        f"STEPS={steps}",
        f"BATCH_SIZE={BATCH_SIZE}",
    ]
    settings += [f"{name}={value}" for name, value in BINDINGS.items()]
    files = [f"--gin_file={file}" for file in FILES]
    return main(["train", *files, *(f"--gin.{setting}" for setting in [*settings, *overrides])])


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert train(world.path, path, STEPS) == 0
    assert main(["evaluate", str(path)]) == 0
    return path


def lines(capsys) -> str:
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    """Run a command that must fail; return its one line."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()[-1]
    assert error.startswith("p5jax: error: ")
    assert "Traceback" not in captured.err
    return error


def test_evaluation_covers_every_family_on_seen_and_unseen_prompts(run):
    results = json.loads((run / "evaluation/test/summary.json").read_text())["results"]
    models = [r for r in results if not r["baseline"]]
    for family in FAMILIES:
        assert {r["seen"] for r in models if r["family"] == family} == {True, False}
        assert any(r["baseline"] for r in results if r["family"] == family)
    for result in results:
        assert result["n"] > 0
        ends = [each for each in result["metrics"].values() if each[1] is not None]
        assert all(low <= value <= high for value, low, high in ends)  # a constant has no interval
        assert (run / "evaluation/test" / result["file"]).is_file()


def test_a_limited_evaluation_leaves_the_full_one(run, capsys):
    before = (run / "evaluation/test/summary.json").read_bytes()
    assert main(["evaluate", str(run), "--limit", "1", "--prompts", "1-6", "--json"]) == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    printed = json.loads(lines(capsys), parse_constant=refuse)
    assert printed["leaky_item_ids"] is False
    assert {result["n"] for result in printed["results"]} == {1}
    assert printed["results"][0]["metrics"]["MAE"][1:] == [None, None]
    assert (run / "evaluation/test-limit-1/summary.json").is_file()
    assert (run / "evaluation/test/summary.json").read_bytes() == before


def test_an_evaluation_that_cannot_be_written_is_refused_before_it_begins(run, capsys):
    (run / "evaluation" / ".test-limit-2.partial").write_text("mine")
    try:
        assert ".test-limit-2.partial" in refused(capsys, "evaluate", str(run), "--limit", "2")
    finally:
        (run / "evaluation" / ".test-limit-2.partial").unlink()
    assert not lines(capsys)


def test_figures_that_could_not_be_written_are_printed(run, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "summary.json")

    monkeypatch.setattr(keeping, "write_results", full)
    arguments = ["evaluate", str(run), "--limit", "2", "--prompts", "1-6"]
    assert main(arguments) == 2
    found = capsys.readouterr()
    assert found.err.endswith("p5jax: error: summary.json: No space left on device\n")
    assert "rating: stars" in found.out
    assert "prompt 1-6 (seen)" in found.out
    with pytest.raises(Unwritten) as caught:
        p5jax.evaluate(run, prompts=["1-6"], limit=2)
    assert {result.prompt_id for result in caught.value.value} >= {"1-6"}
    assert not (run / "evaluation" / ".test-limit-2.partial").exists()
    monkeypatch.undo()
    assert main(arguments) == 0
    assert lines(capsys) == found.out


def test_recommendations_are_distinct_new_catalogue_items(run, world, capsys):
    for user in range(3):
        key = world.user_keys[user]
        assert main(["recommend", str(run), "--user", key, "-k", "5", "--json"]) == 0
        items = json.loads(lines(capsys))["items"]
        found = [world.item_index(item["item"]) for item in items]
        assert len(set(found)) == 5
        assert not set(found) & set(world.sequence(user).tolist())
        scores = [item["log_probability"] for item in items]
        assert scores == sorted(scores, reverse=True)
        assert all(score < 0 for score in scores)
        assert [item["title"] for item in items] == [world.titles[i] for i in found]


def test_items_that_are_not_wanted_are_left_out(run, world, capsys):
    arguments = ["recommend", str(run), "--user", world.user_keys[0], "-k", "5", "--json"]
    assert main(arguments) == 0
    best = [item["item"] for item in json.loads(lines(capsys))["items"]]
    assert main([*arguments, "--exclude", f"{best[0]}, {best[2]}"]) == 0
    left = [item["item"] for item in json.loads(lines(capsys))["items"]]
    assert left[0] == best[1]
    assert not {best[0], best[2]} & set(left)


def test_whole_catalogue_can_be_asked_for_with_the_history(run, world, capsys):
    arguments = ["recommend", str(run), "--user", world.user_keys[0], "--no-exclude-history"]
    assert main([*arguments, "-k", str(world.num_items), "--json"]) == 0
    items = [item["item"] for item in json.loads(lines(capsys))["items"]]
    assert sorted(items) == sorted(world.item_keys)


def test_python_gives_what_the_command_prints(run, world, capsys):
    users = world.user_keys[:2]
    both = p5jax.load(run).recommend(users, k=5)
    for user, found in zip(users, both, strict=True):
        assert main(["recommend", str(run), "--user", user, "-k", "5"]) == 0
        printed = [line.split()[2] for line in lines(capsys).splitlines()]
        assert printed == [item.item for item in found.items]


def test_explain_and_generate_print_one_answer(run, world, capsys):
    arguments = ["--user", world.user_keys[0], "--item", world.item_keys[0]]
    assert main(["explain", str(run), *arguments]) == 0
    assert main(["generate", str(run), "--text", "Which star rating ?"]) == 0
    assert len(lines(capsys).splitlines()) <= 2


def test_a_run_equals_itself(run, capsys):
    assert main(["compare", str(run), str(run)]) == 0
    table = lines(capsys)
    assert "HR@10" in table
    assert not re.search(r"\+0\.[0-9]*[1-9]", table)


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href") and v]


def test_report_is_one_self_contained_page(run, capsys):
    assert main(["report", str(run)]) == 0
    path = Path(lines(capsys).strip())
    assert path == run / "report.html"
    page, text = _Page(), path.read_text()
    page.feed(text)
    assert {"table", "svg", "h1"} <= set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert all(family in text for family in FAMILIES)
    assert "popularity" in text
    assert "among 12 candidates, asked one by one" in text


def test_a_report_sets_a_run_beside_another(run, tmp_path, capsys):
    """Family by family in P5's order; the numbers are computed here."""
    better = tmp_path / "better & <b>"
    shutil.copytree(run, better)
    file = better / "evaluation" / "test" / "sequential_2-3.parquet"
    table = pq.read_table(file)
    hits = table["HR@10"].to_numpy()
    ones = pa.array(np.ones(len(hits)), table.schema.field("HR@10").type)
    pq.write_table(table.set_column(table.column_names.index("HR@10"), "HR@10", ones), file)
    summary = better / "evaluation" / "test" / "summary.json"
    told = json.loads(summary.read_text())
    for result in told["results"]:
        result.pop("checksum")  # of the file that is another one now
    summary.write_text(json.dumps(told))
    assert main(["report", str(run), str(better)]) == 0
    text = Path(lines(capsys).strip()).read_text()
    assert "better &amp; &lt;b&gt;" in text
    assert "better &amp; <b>" not in text
    section = text[text.index(" beside ") :]
    assert f"<td>{hits.mean():.4f}<td>1.0000<td>{1 - hits.mean():+.4f} " in section
    titles = re.findall(r"<h3>(\w+), test split", section)
    assert titles == [family for family in FAMILIES if family in titles]
    assert len(titles) > 1
    written = (run / "report.html").read_bytes()
    shutil.rmtree(better / "evaluation")
    error = refused(capsys, "report", str(run), str(better))
    assert "found no split that both are evaluated on; run p5jax evaluate" in error
    assert (run / "report.html").read_bytes() == written


def test_what_a_report_shows_is_text(run, tmp_path, capsys):
    """Markup in what models and reviews say is inert."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J"
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for summary in copy.glob("evaluation/*/summary.json"):
        told = json.loads(summary.read_text())
        for result in told["results"]:
            result["examples"] = [[evil] * 3]
        summary.write_text(json.dumps(told))
    assert main(["report", str(copy)]) == 0
    page, text = _Page(), (copy / "report.html").read_text()
    page.feed(text)
    assert "&lt;script&gt;alert" in text
    assert not {"script", "img"} & set(page.tags)
    assert "\x1b" not in lines(capsys)


@pytest.mark.extras
def test_export_is_read_back_by_transformers(run, tmp_path, capsys):
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers and torch (make test-extras)"
    )

    out = tmp_path / "hf"
    assert "whole-word table" in refused(capsys, "export", str(run), "--out", str(out))
    assert not out.exists()
    assert main(["export", str(run), "--out", str(out), "--drop-whole-words"]) == 0
    model = transformers.T5ForConditionalGeneration.from_pretrained(out)
    shape = p5jax.load(run).run.params["token_embedder"]["embedding"].shape
    assert tuple(model.shared.weight.shape) == shape


def test_train_again_does_nothing_and_refuses_other_settings(run, world, capsys):
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert train(world.path, run, STEPS) == 0
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
    assert train(world.path, run, STEPS, "T5Config.emb_dim=16") == 2
    assert "run.json: found model.emb_dim = 32, expected 16" in capsys.readouterr().err


def test_a_refused_resume_changes_nothing(run, world, capsys):
    def files() -> dict[Path, tuple[int, bytes]]:
        """All files and folders with their times, those of the run's folder itself included."""
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in [run, *run.rglob("*")]
        }

    before = files()
    assert train(world.path, run, 3) == 2
    assert f"the run is at step {STEPS}, beyond the 3 steps asked for" in capsys.readouterr().err
    assert files() == before
    assert train(world.path, run, 40) == 2
    assert f"the linear schedule ends at step {STEPS}" in capsys.readouterr().err
    assert train(world.path, run, STEPS, "TrainConfig.best_metric=validation/los") == 2
    assert "expected one of validation/" in (error := capsys.readouterr().err)
    assert "did you mean validation/loss" in error
    assert files() == before


def test_a_metric_that_the_catalogue_is_too_small_for_judges_nothing(tmp_path, capsys):
    """A hit among 10 of 8 items is certain, so no validation gives HR@10."""
    write_sequences(tmp_path / "data", [range(user, user + 4) for user in range(5)], 8)
    ranked = ("ValidationConfig.rank_users=3", "TrainConfig.best_metric=validation/HR@10")
    assert train(tmp_path / "data", tmp_path / "run", 1, *ranked) == 2
    expected = "expected one of validation/NDCG@10, validation/accuracy, validation/loss"
    assert f"best_metric: found 'validation/HR@10', {expected}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_that_never_trained_gives_way(world, tmp_path):
    def create(pieces: int, prompts: tuple[str, ...]) -> Run:
        config = RunConfig(
            str(world.path), str(tmp_path / "run"), prompts=prompts, vocabulary_size=pieces
        )
        return Run.create(config, FamilyConfig(), T5Config(vocab_size=0))

    first, second = create(500, ("2-1",)), create(600, ("2-3", "1-1"))
    assert second.manifest["vocabulary_source"] == "600 pieces"
    assert second.vocabulary.size > first.vocabulary.size
    assert set(second.templates) == {"2-3", "1-1"}
    assert Run.load(tmp_path / "run").manifest == {"format_version": 1, **second.manifest}


def test_dataset_with_other_ids_is_refused(run, world, tmp_path, capsys):
    from p5jax.data.building import build_dataset
    from p5jax.data.readers.synthetic import synthetic_raw

    other = tmp_path / "other"
    build_dataset(synthetic_raw(users=120, items=60, seed=0), other, scheme="random", seed=0)
    manifest = json.loads((run / "run.json").read_text())
    moved = tmp_path / "run"
    moved.mkdir()
    manifest["dataset"] |= {"path": str(other), "relative": "../other"}
    (moved / "run.json").write_text(json.dumps(manifest))
    error = refused(capsys, "recommend", str(moved), "--user", world.user_keys[0])
    assert "trained on sequential ids" in error
    assert "random ids" in error


def test_a_run_and_its_dataset_that_are_copied_together_find_each_other(run, world, tmp_path):
    """By the fingerprint, whatever else has the recorded name or lies beside."""
    manifest = json.loads((run / "run.json").read_text())
    copied = tmp_path / "a" / "run"
    shutil.copytree(run, copied, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    manifest["dataset"] |= {"path": str(tmp_path / "gone"), "relative": "../gone"}
    (copied / "run.json").write_text(json.dumps(manifest))
    (tmp_path / "a" / "another").mkdir()
    (tmp_path / "a" / "another" / "manifest.json").write_text('{"format_version": 1}')
    with pytest.raises(UserError, match="no longer at .*gone, nor beside .* copy or link it there"):
        Run.load(copied)
    (tmp_path / "a" / "linked").symlink_to(world.path)
    assert Run.load(copied).dataset.path == tmp_path / "a" / "linked"
    (tmp_path / "a" / "linked").unlink()
    shutil.copytree(world.path, tmp_path / "b" / "data")
    manifest["dataset"]["relative"] = "../../b/data"
    (copied / "run.json").write_text(json.dumps(manifest))
    assert Run.load(copied).dataset.fingerprint == world.fingerprint
    table = tmp_path / "b" / "data" / "manifest.json"
    checksum = json.loads(table.read_text())["tables"]["users"]
    table.write_text(table.read_text().replace(checksum, "0" * 64))  # another dataset now
    with pytest.raises(UserError, match=r"b.data/users.parquet: contents differ"):
        Run.load(copied)


@pytest.mark.check
def test_a_moved_dataset_is_found_after_train_was_told(world, tmp_path, capsys):
    before, after, path = tmp_path / "before", tmp_path / "away" / "after", tmp_path / "run"
    after.parent.mkdir()
    shutil.copytree(world.path, before)
    assert train(before, path, 1) == 0
    before.rename(after)
    key = world.user_keys[0]
    assert "no longer at" in refused(capsys, "recommend", str(path), "--user", key)
    assert train(after, path, 1) == 0
    assert main(["recommend", str(path), "--user", key, "-k", "1"]) == 0


def test_folders_with_odd_names_and_places(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").mkdir()
    (tmp_path / "here").mkdir()
    arguments = ["train", "--gin_file=runs/p5.gin", "--gin.RUN_DIR=r", "--gin.DATASET=2024"]
    assert "2024: not a dataset folder" in refused(capsys, *arguments)
    (tmp_path / "file").write_text("mine")
    synthetic = ["data", "prepare", "synthetic", "--out"]
    assert "file" in refused(capsys, *synthetic, "file/below")
    assert "is not a dataset folder" in refused(capsys, *synthetic, ".")
    assert (tmp_path / "file").read_text() == "mine"
    monkeypatch.chdir(tmp_path / "here")
    assert main([*synthetic, "."]) == 0
    assert Dataset.load(tmp_path / "here").num_users


@pytest.mark.check
def test_one_prompt_asked_for_leaves_the_other_families_out(world, tmp_path):
    overrides = ["RunConfig.prompts=('2-3','2-13')"]
    assert train(world.path, tmp_path / "run", 1, *overrides) == 0
    assert list(p5jax.load(tmp_path / "run").run.families) == ["sequential"]


@pytest.mark.check
def test_a_dataset_without_ratings_trains_and_evaluates_the_other_families(tmp_path, capsys):
    dataset, run = tmp_path / "d", tmp_path / "r"
    assert main(["data", "prepare", "synthetic", "--no-ratings", "--out", str(dataset)]) == 0
    assert train(dataset, run, 2) == 0
    captured = capsys.readouterr()
    assert "the dataset has no ratings, so no rating family" in captured.out + captured.err
    assert main(["evaluate", str(run), "--limit", "4"]) == 0
    (folder,) = (run / "evaluation").iterdir()
    results = json.loads((folder / "summary.json").read_text())["results"]
    assert {result["family"] for result in results} == set(FAMILIES) - {"rating"}
    assert "rating" not in {result["kind"] for result in results}
    assert "'rating'" in refused(capsys, "evaluate", str(run), "--families", "rating")
    assert main(["data", "audit", str(dataset)]) == 0


def test_users_mistakes_are_one_line(run, world, tmp_path, capsys):
    key = world.user_keys[0]
    assert "did you mean" in refused(capsys, "recommend", str(run), "--user", key + "x")
    assert "k: found 0, expected 1 or more" in refused(
        capsys, "recommend", str(run), "--user", key, "-k", "0"
    )
    assert "not a run folder" in refused(capsys, "recommend", str(tmp_path), "--user", key)
    step = ("--from-step", "99")
    assert "no step 99, expected one of" in refused(capsys, "generate", str(run), "--text=a", *step)
    assert "no step 99" in refused(capsys, "evaluate", str(run), "--prompts", "2-3", *step)
    assert "2-99" in refused(capsys, "evaluate", str(run), "--prompts", "2-99")
    assert "ratng" in refused(capsys, "evaluate", str(run), "--families", "ratng")
    assert "families: found none" in refused(capsys, "evaluate", str(run), "--families", "")
    assert "prompts: found none" in refused(capsys, "evaluate", str(run), "--prompts", "")
    assert "--fast" in refused(capsys, "evaluate", str(run), "--fast")
    assert "DATASET must be set" in refused(capsys, "train", "--gin_file=runs/p5.gin")
    assert "no such gin file" in refused(capsys, "train", "--gin_file=nowhere.gin")
    assert "not a dataset" in refused(capsys, "data", "audit", str(tmp_path))
    assert "found nothing" in refused(capsys, "generate", str(run), "--text", " ")


def test_audit_prints_json_and_fails_on_a_leak(world, tmp_path, capsys):
    assert main(["data", "audit", str(world.path), "--json"]) == 0
    result = json.loads(lines(capsys))
    assert result["leaks"] == []
    names = ("popularity", "id_arithmetic", "markov", "co_occurrence")
    assert set(names) <= set(result["baselines"])
    assert {"HR@5", "NDCG@5", "HR@10", "NDCG@10"} <= set(result["baselines"]["popularity"])

    from p5jax.data.dataset import TABLES
    from p5jax.data.writing import write_dataset

    tables = {name: getattr(world, name) for name in TABLES}
    # The first test review, moved to training: what P5's random review split does.
    splits = tables["reviews"]["split"].to_pylist()
    splits[splits.index(2)] = 0
    column = tables["reviews"].column_names.index("split")
    import pyarrow as pa

    tables["reviews"] = tables["reviews"].set_column(column, "split", pa.array(splits, pa.int8()))
    manifest = world.manifest
    write_dataset(
        tmp_path / "leaky",
        **{k: manifest[k] for k in ("name", "format", "sources", "protocol", "counts", "item_ids")},
        **tables,
    )
    assert main(["data", "audit", str(tmp_path / "leaky"), "--json"]) == 1
    assert json.loads(lines(capsys))["leaks"]
    assert train(tmp_path / "leaky", tmp_path / "run", 1) == 2
    assert "p5jax data audit" in capsys.readouterr().err


def test_prepare_and_inspect_print_what_was_made(tmp_path, capsys):
    out = tmp_path / "dataset"
    assert main(["data", "prepare", "synthetic", "--out", str(out), "--item-ids", "token"]) == 0
    assert main(["data", "inspect", str(out)]) == 0
    text = lines(capsys)
    dataset = Dataset.load(out)
    assert dataset.id_scheme == "token"
    assert dataset.item_ids[0] in text
    assert f"{pq.read_table(out / 'interactions.parquet').num_rows:,}" in text
