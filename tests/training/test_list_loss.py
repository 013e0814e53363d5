"""The loss of answers that list items, against the same targets one by one."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from small_model import small_model

from p5jax.core.errors import UserError
from p5jax.models.t5 import init_params
from p5jax.pipeline.batching import packed_batch, padded_batch
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.samples import tokenise
from p5jax.prompts.families import FamilyConfig, example_rng, make_families
from p5jax.prompts.template_files import chosen_templates
from p5jax.training.objective import batch_sums

PIPELINE = PipelineConfig(source_lengths=(96,), target_lengths=(48,))


@pytest.fixture(scope="module")
def examples(world, world_vocabulary):
    """Answers of up to three items after two that are given, and lists of all a user's items."""
    config = FamilyConfig(max_source=96, max_history=6, prefixes=True, repeat=2, horizon=3)
    templates = chosen_templates("amazon", ("L-1", "H-1"))
    family = make_families(world, templates, world_vocabulary, config)["sequential"]
    rng = example_rng(0, 0, "sequential", 0)
    return [family.example("train", 5 * n, rng, ("H-1", "L-1")[n % 2]) for n in range(12)]


@pytest.fixture(scope="module")
def model(world_vocabulary):
    model = small_model(world_vocabulary.padded_size)
    params = jax.tree.map(lambda x: 0.3 * x, init_params(model, jax.random.key(0)))
    return model, params


def one_by_one(example, ended):
    """The example's items as examples of their own, each after those before it."""
    listed = example.targets.removesuffix(" ,").split(" , ") if ended else example.targets.split()
    end = " ," if ended else ""
    text = [f"{id}{end}" for id in listed]
    first = len(text) - example.listed
    return [
        replace(example, targets=" ".join(text[: n + 1]), given=" ".join(text[:n]), listed=1)
        for n in range(first, len(text))
    ]


def test_a_list_has_the_loss_of_its_items_one_by_one(world, world_vocabulary, examples, model):
    ended = examples[0].targets.endswith(",")
    apart = [alone for example in examples for alone in one_by_one(example, ended)]
    assert len(apart) > 2 * len(examples)
    together, single = (
        padded_batch([tokenise(each, world_vocabulary, PIPELINE) for each in some], 96, 48, 64)
        for some in (examples, apart)
    )
    for batch in (together, single):
        assert batch["decoder_loss_weights"].sum() == pytest.approx(len(apart))
    # A list weighs its tokens alike: of ids of several lengths the long ones count a little more.
    by_token = [batch["decoder_loss_weights"] > 0 for batch in (together, single)]
    assert by_token[0].sum() == by_token[1].sum()
    for batch, scored in zip((together, single), by_token, strict=True):
        batch["decoder_loss_weights"] = scored.astype(np.float32)
    sums = [batch_sums(*model, batch, None)[1] for batch in (together, single)]
    np.testing.assert_allclose(sums[0]["loss_sum"], sums[1]["loss_sum"], rtol=1e-5)


def test_packed_lists_have_the_loss_of_padded_ones(world_vocabulary, examples, model):
    tokens = [tokenise(example, world_vocabulary, PIPELINE) for example in examples[:6]]
    padded = padded_batch(tokens, 96, 48, 6)
    packed = packed_batch([tokens[:3], tokens[3:]], 288, 144, 2)
    losses = [batch_sums(*model, batch, None)[1]["loss_sum"] for batch in (padded, packed)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_what_is_given_and_the_end_of_a_list_have_no_loss(world_vocabulary, examples):
    for example in examples:
        tokens = tokenise(example, world_vocabulary, PIPELINE)
        given = len(world_vocabulary.encode(example.given)) if example.given else 0
        weights = tokens.weights()
        assert not weights[:given].any()
        assert weights[given:-1].all()
        assert weights[-1] == 0
        assert weights.sum() == pytest.approx(example.listed)


def test_a_list_is_never_cut(world_vocabulary, examples):
    short = PipelineConfig(source_lengths=(96,), target_lengths=(4,))
    with pytest.raises(UserError, match=r"prompt L-1: found an answer of \d+ tokens, expected at"):
        tokenise(examples[1], world_vocabulary, short)


def test_an_answer_behind_a_list_has_its_loss_alone_and_is_never_cut(world, world_vocabulary):
    templates, config = chosen_templates("amazon", ("D-2",)), FamilyConfig(max_history=6)
    family = make_families(world, templates, world_vocabulary, config)["direct"]
    example = family.example("train", 20, example_rng(0, 0, "direct", 20))
    tokens = tokenise(example, world_vocabulary, PIPELINE)
    scored = tokens.target[tokens.weights() > 0].tolist()
    assert scored == [*world_vocabulary.encode(example.answer), world_vocabulary.eos_id]
    assert tokens.weights().sum() == pytest.approx(1)
    for longest in (4, len(tokens.target) - 1):
        short = PipelineConfig(source_lengths=(96,), target_lengths=(longest,))
        with pytest.raises(
            UserError, match=r"prompt D-2: found an answer of \d+ tokens, expected at"
        ):
            tokenise(example, world_vocabulary, short)
