"""One small sound folder or file of every kind that p5jax reads: what a campaign damages."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

from small_model import small_model

from p5jax.cli.main import main

USERS, ITEMS = 18, 9
CUTS = 10**9 + 900, 10**9 + 1400  # of the times of the interactions
SIZES = (
    *("T5Config.emb_dim=16", "T5Config.mlp_dim=16", "T5Config.num_heads=2"),
    *("T5Config.num_encoder_layers=1", "T5Config.num_decoder_layers=1"),
    *("RunConfig.vocabulary_size=300", "RunConfig.families=('sequential', 'rating')"),
    *("PipelineConfig.source_lengths=(192,)", "FamilyConfig.max_source=192"),
    *("PipelineConfig.target_lengths=(4, 16)", "FamilyConfig.num_candidates=10"),
    *("ValidationConfig.examples=4", "STEPS=2", "BATCH_SIZE=4"),
)
COLD = ("--gin.ColdStartConfig.share=0.5", "--gin.ColdStartConfig.negatives=8")
TEMPLATES = """
[1-1]
family = "rating"
inputs = "Stars of {uid} for {iid} ?"
targets = "{rating}"

[2-1]
family = "sequential"
inputs = "After {hist} {uid} takes"
targets = "{item}"

[2-2]
family = "sequential"
inputs = "{udesc}: {hist} next"
targets = "{item}"
seen = false
"""
GIN = """# settings
T5Config.vocab_size = 128
T5Config.emb_dim = 16
T5Config.dropout_rate = 0.25
T5Config.mlp_activations = ('gelu', 'linear')
TrainConfig.steps = %STEPS
TrainConfig.best_metric = "validation/loss"
STEPS = 12
"""


def interactions() -> list[tuple[str, str, int, int]]:
    """Users, items, stars and seconds: each user walks along the items."""
    rows = []
    for user in range(USERS):
        for step in range(5):
            item = (user + step * (1 + user % 2)) % ITEMS
            rows.append((f"u{user}", f"i{item}", 1 + (user * step) % 5, 10**9 + 100 * user + step))
    return rows


def make_worlds(folder: Path) -> None:
    """Write every world below `folder`."""
    folder.mkdir(parents=True)
    _raw(folder)
    (folder / "templates").mkdir()
    (folder / "templates" / "own.toml").write_text(TEMPLATES)
    (folder / "split").mkdir()
    (folder / "split" / "split").write_text("time:.6/.2/.2")
    (folder / "gin").mkdir()
    (folder / "gin" / "own.gin").write_text(GIN)
    _p5(folder / "p5")
    _weights(folder)
    _trained(folder)


def _raw(folder: Path) -> None:
    rows = interactions()
    for name in ("recbole", "amazon", "sequences", "table"):
        (folder / name).mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += ["\t".join(map(str, row)) for row in rows]
    (folder / "recbole" / "w.inter").write_text("\n".join(lines) + "\n")
    lines = ["user,item,stars,ts", *(",".join(map(str, row)) for row in rows)]
    (folder / "table" / "t.csv").write_text("\n".join(lines) + "\n")
    names = ("user", "item", "stars", "ts")
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    pq.write_table(table, folder / "table" / "t.parquet", write_page_checksum=True)
    lines = [json.dumps({"id": f"i{i}", "title": f"Thing number {i}"}) for i in range(ITEMS)]
    (folder / "table" / "items.json").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\ttitle:token_seq\tbrand:token\tprice:float"]
    lines += [f"i{i}\tThing number {i}\tmaker {i % 3}\t{i}.5" for i in range(ITEMS)]
    (folder / "recbole" / "w.item").write_text("\n".join(lines) + "\n")
    lines = ["user_id:token\tage:float\toccupation:token"]
    lines += [f"u{u}\t{20 + u}\t{'cook' if u % 2 else 'clerk'}" for u in range(USERS)]
    (folder / "recbole" / "w.user").write_text("\n".join(lines) + "\n")
    reviews = [
        {
            "reviewerID": user,
            "asin": item,
            "overall": float(stars),
            "unixReviewTime": seconds,
            "summary": f"Headline {stars}",
            "reviewText": f"The strings of {item} sound good. The price was {stars} fair.",
        }
        for user, item, stars, seconds in rows
    ]
    text = "".join(json.dumps(review) + "\n" for review in reviews)
    (folder / "amazon" / "reviews.json").write_text(text)
    metadata = [
        {"asin": f"i{i}", "title": f"Thing number {i}", "brand": f"maker {i}", "price": 1.5}
        for i in range(ITEMS)
    ]
    text = "".join(json.dumps(item) + "\n" for item in metadata)
    (folder / "amazon" / "metadata.json").write_text(text)
    (folder / "amazon" / "features.txt").write_text("strings\nprice\nsound\n")
    sequences: dict[str, list[str]] = {}
    for user, item, _, _ in rows:
        sequences.setdefault(user[1:], []).append(item[1:])
    text = "".join(
        f"{int(u) + 1} {' '.join(str(int(i) + 1) for i in s)}\n" for u, s in sequences.items()
    )
    (folder / "sequences" / "sequences.txt").write_text(text)
    maps = {
        "id2user": {str(u + 1): f"u{u}" for u in range(USERS)},
        "id2item": {str(i + 1): f"i{i}" for i in range(ITEMS)},
    }
    (folder / "sequences" / "datamaps.json").write_text(json.dumps(maps))
    text = "".join(f"{i + 1}\ti{i}\tThing number {i}\tmaker\tTools\t1.5\n" for i in range(ITEMS))
    (folder / "sequences" / "items.txt").write_text(text)


def _p5(folder: Path) -> None:
    folder.mkdir()
    parts = ["all_tasks = {}\ngroup = {}\n"]
    for id, source in (("2-1", "{} has {} next ?"), ("2-2", "then {} : {}")):
        parts.append(
            f"template = {{}}\ntemplate['source'] = {source!r}\ntemplate['target'] = '{{}}'\n"
            "template['task'] = 'sequential'\ntemplate['source_argc'] = 2\n"
            "template['source_argv'] = ['user_desc', 'purchase_history']\n"
            "template['target_argc'] = 1\ntemplate['target_argv'] = ['item_id']\n"
            f"template['id'] = {id!r}\ngroup[{id!r}] = template\n"
        )
    (folder / "templates.py").write_text("".join(parts))


def _weights(folder: Path) -> None:
    """A Hugging Face folder and a .pth file of the same small model."""
    import jax

    from p5jax.models.checkpoints.hugging_face import export_hugging_face
    from p5jax.models.t5 import init_params

    model = small_model(128)
    params = init_params(model, jax.random.key(0))
    export_hugging_face(params, model.config, folder / "hugging_face")
    try:
        import torch
    except ImportError:
        return
    (folder / "pth").mkdir()
    state = {"shared.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(2)}
    torch.save(state, folder / "pth" / "state.pth")


def _trained(folder: Path) -> None:
    """A dataset, and what is made from it: runs of both kinds and all that they write."""
    import p5jax
    from p5jax.data.building import build_dataset
    from p5jax.data.readers.synthetic import synthetic_raw

    dataset, run, warm = folder / "dataset", folder / "run", folder / "backbone"
    build_dataset(synthetic_raw(users=60, items=30, seed=0), dataset)
    given = (f"--gin.{text}" for text in (*SIZES, f"DATASET={dataset}", f"RUN_DIR={run}"))
    _run("train", "--gin_file=runs/p5.gin", "--gin_file=models/tiny.gin", *given)
    p5jax.evaluate(run, prompts=("2-3",))
    search = ("--family", "sequential", "--users", "8", "--epochs", "1", "--candidates", "4")
    _run("triggers", "search", run, "--out", folder / "triggers", *search)
    _run("rank", run, "--out", folder / "ranking", "-k", "3", "--beam", "8")
    _sharded(folder, run, dataset)
    _run("memory", run, "--limit", "8", "--beam", "8")
    pretrain = ("--gin_file=ppr/sasrec.gin", "--gin.STEPS=2", "--gin.PprConfig.users=warm")
    sizes = ("--gin.BackboneConfig.emb_dim=8", "--gin.BackboneConfig.mlp_dim=8")
    _run(
        "ppr",
        "pretrain",
        *pretrain,
        *sizes,
        *COLD,
        f"--gin.DATASET={dataset}",
        f"--gin.RUN_DIR={warm}",
    )
    profile = "--gin.ProfileConfig.attributes=('occupation', 'age')"
    tune = ("--mode", "light", "--seed", "0", "--gin.STEPS=2", *COLD, profile)
    _run("ppr", "tune", warm, "--out", folder / "tuned", *tune)
    _run("ppr", "evaluate", warm, folder / "tuned")
    cold = folder / "cold"
    cold.mkdir()
    (warm / "evaluation" / "cold.parquet").rename(cold / "cold.parquet")
    soft = ("--gin_file=ppr/soft.gin", "--gin.STEPS=2", "--gin.BATCH_SIZE=4")
    soft += ("--gin.PromptConfig.length=2", "--gin.SoftConfig.rank_users=4", profile)
    _run("ppr", "soft", *soft, f"--gin.RUN={run}", f"--gin.OUT={folder / 'soft'}")
    (folder / "evaluation").mkdir()
    for file in (run / "evaluation" / "test").iterdir():
        file.rename(folder / "evaluation" / file.name)
    shutil.rmtree(run / "evaluation")


def _sharded(folder: Path, run: Path, dataset: Path) -> None:
    """Two shards of a ranking and of an evaluation, a split by time, and pairs that are stored."""
    import p5jax
    from p5jax.data.building import build_dataset
    from p5jax.data.readers.synthetic import synthetic_raw

    for shard in ("1", "2"):
        share = f"{shard}/2"
        out, few = folder / "ranking-shards" / shard, ("-k", "3", "--beam", "8")
        _run("rank", run, "--out", out, "--shard", share, "--batch-size", "2", *few)
        p5jax.evaluate(run, prompts=("2-3",), shard=share)
        made = run / "evaluation" / f"test-shard-{shard}-of-2"
        (folder / "evaluation-shards").mkdir(exist_ok=True)
        made.rename(folder / "evaluation-shards" / shard)
    build_dataset(
        synthetic_raw(users=60, items=30, seed=0), folder / "timed", split="time:.6/.2/.2"
    )
    shutil.copytree(dataset, folder / "counted")
    _run("data", "count-pairs", folder / "counted")


def _run(*words: object) -> None:
    if main([str(word) for word in words]):
        raise SystemExit(f"p5jax {' '.join(map(str, words))}: failed")


if __name__ == "__main__":
    make_worlds(Path(sys.argv[1]))
