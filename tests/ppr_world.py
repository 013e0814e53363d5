"""Dataset folders of given item sequences; as a script it pre-trains on one in a process."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa

from p5jax.data.dataset import Dataset
from p5jax.data.writing import write_dataset
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.ppr.backbone.model import BackboneConfig
from p5jax.ppr.backbone.pretraining import LossConfig, PretrainConfig, pretrain
from p5jax.ppr.backbone.sequences import SequenceConfig
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig


def write_sequences(path, sequences, items):
    """A dataset folder whose users have these items in this order (leave-one-out)."""
    rows = [
        (user, item, None, place, {1: 2, 2: 1}.get(len(sequence) - place, 0))
        for user, sequence in enumerate(sequences)
        for place, item in enumerate(sequence)
    ]
    names = ("user", "item", "rating", "timestamp", "split")
    types = (pa.int32(), pa.int32(), pa.float32(), pa.int64(), pa.int8())
    schema = pa.schema(list(zip(names, types, strict=True)))
    columns = [pa.array(c, t) for c, t in zip(zip(*rows, strict=True), types, strict=True)]
    texts = ("headline", "text", "feature", "sentence")
    nothing = pa.nulls(items, pa.string())
    users = len(sequences)
    write_dataset(
        path,
        name="sequences",
        format="test",
        sources=[],
        protocol={},
        counts={},
        users=pa.table(
            {
                "user": np.arange(users, dtype=np.int32),
                "key": [f"U{u}" for u in range(users)],
                "name": pa.nulls(users, pa.string()),
            }
        ),
        items=pa.table(
            {
                "item": np.arange(items, dtype=np.int32),
                "key": [f"I{i}" for i in range(items)],
                **dict.fromkeys(("title", "brand", "categories", "price"), nothing),
                "item_id": [f"<i0_{i}>" for i in range(items)],
            }
        ),
        interactions=pa.table(columns, schema=schema),
        reviews=pa.Table.from_pylist(
            [], schema=pa.schema([*schema, *((n, pa.string()) for n in texts)])
        ),
        item_ids={"scheme": "token", "seed": 0, "leaky": False},
    )
    return Dataset.load(path)


def ring(users=64, items=24, seed=0):
    """Users who walk along a ring of items, each from a place of its own."""
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(items, size=users), rng.integers(6, 12, size=users)
    return [
        ((start + np.arange(n)) % items).tolist() for start, n in zip(starts, lengths, strict=True)
    ]


def small_config(loss="cross_entropy", negatives=0, contrastive=0.0, steps=40, **training):
    settings = {"validate_every": 0, "checkpoint_every": 0, "log_every": 10, **training}
    return PretrainConfig(
        backbone=BackboneConfig(0, 16, mlp_dim=16, max_history=8, dropout_rate=0.1),
        loss=LossConfig(loss, contrastive),
        sequences=SequenceConfig(16, (), negatives),
        optimizer=OptimizerConfig(
            learning_rate=0.03, warmup_fraction=0.0, schedule="constant", weight_decay=0.0
        ),
        training=TrainConfig(
            steps=steps, best_metric="validation/NDCG@10", best_mode="max", **settings
        ),
        start="noise",
        validation_users=32,
    )


if __name__ == "__main__":
    folder, run_dir, data, model = sys.argv[1:]
    mesh = make_mesh(MeshConfig(int(data), int(model)))
    config = small_config("sampled", 3, 0.1, steps=6)
    run = pretrain(Dataset.load(folder), config, run_dir, mesh=mesh)
    print(run.evaluate("validation")[0].metrics["NDCG@10"][0])
