"""What SeqIO's tasks must give: the native pipeline's examples and tokens."""

from __future__ import annotations

import itertools

from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.samples import tokenise
from p5jax.prompts.families import FamilyConfig, example_rng

CONFIG = FamilyConfig(sequential_per_user=3, direct_per_user=2, max_source=200, num_candidates=20)
LENGTHS = {"inputs": 200, "targets": 16}
PIPELINE = PipelineConfig(source_lengths=(200,), target_lengths=(4, 16))
EPOCHS, SEED = 2, 7
PASSED_ON = ("split", "epoch", "index", "prompt", "kind", "answer", "user", "item")


def drawn(family, split, number, seed=SEED, prompt=None):
    """Element `number` of a split, as the native pipeline draws it."""
    epoch, index = divmod(number, family.size(split, prompt))
    return family.example(split, index, example_rng(seed, epoch, family.name, index), prompt)


def check_rows(rows, numbers, family, split, vocabulary, pipeline, prompt=None, seed=SEED):
    """Compare what SeqIO gave with the native tokens; return how many there were."""
    count = 0
    for row, number in itertools.zip_longest(rows, numbers):
        example = drawn(family, split, number, seed, prompt)
        tokens = tokenise(example, vocabulary, pipeline)
        assert row["inputs"].tolist() == tokens.source.tolist()
        assert row["targets"].tolist() == tokens.target.tolist()
        assert row["prompt"].decode() == example.prompt_id
        assert (row["user"], row["item"]) == (example.user, example.item)
        count += 1
    return count
