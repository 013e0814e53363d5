"""Explanations whose answer begins with the feature that is asked for, from text to score."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_world import Thirds, write_world
from t5_case import V10

from p5jax.core.errors import UserError
from p5jax.evaluation.evaluators import evaluate_family
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.models.t5 import Transformer, init_params
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.samples import tokenise
from p5jax.prompts.families import FamilyConfig, make_families
from p5jax.prompts.template import NAMED, PromptTemplate
from p5jax.prompts.template_files import own_templates

OWN = own_templates()


def explanations(dataset, vocabulary):
    config = FamilyConfig(max_source=64, num_candidates=10)
    return make_families(dataset, {"E-1": OWN["E-1"]}, vocabulary, config)


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("named") / "dataset")


def test_the_answer_begins_with_the_feature_of_its_review(gaps):
    family = explanations(gaps, Thirds())["explanation"]
    said = {(r["user"], r["item"]): r for r in gaps.reviews.to_pylist()}
    assert 0 < family.size("test") < sum(bool(r["sentence"]) for r in said.values())
    for index in range(family.size("test")):
        example = family.example("test", index)
        review = said[example.user, example.item]
        assert example.given == f"{review['feature']} :"
        assert example.targets == f"{review['feature']} : {review['sentence']}"
        assert example.answer == review["sentence"]
        assert f"said of {review['feature']} in" in example.inputs


def test_what_is_given_has_no_loss_and_a_long_sentence_is_cut(world, world_vocabulary):
    family = explanations(world, world_vocabulary)["explanation"]
    example = family.example("test", 0)
    given, whole = (world_vocabulary.encode(t) for t in (example.given, example.targets))
    assert whole[: len(given)] == given
    for longest in (len(whole) + 1, len(given) + 3):
        config = PipelineConfig(source_lengths=(64,), target_lengths=(longest,))
        tokens = tokenise(example, world_vocabulary, config)
        assert tokens.target.tolist() == [*whole[: longest - 1], world_vocabulary.eos_id]
        assert tokens.given == len(given)
        assert tokens.weights()[len(given) :].sum() == pytest.approx(1)
    config = PipelineConfig(source_lengths=(64,), target_lengths=(len(given) + 1,))
    with pytest.raises(UserError, match="prompt E-1: found an answer of .* expected at most"):
        tokenise(example, world_vocabulary, config)


@pytest.fixture(scope="module")
def run(world, world_vocabulary, tmp_path_factory):
    starts = np.packbits(world_vocabulary.word_starts).tobytes()
    sizes = {"vocab_size": world_vocabulary.padded_size, "word_starts": starts}
    model = Transformer(dataclasses.replace(V10, **sizes))

    @dataclasses.dataclass
    class Untrained:
        path = tmp_path_factory.mktemp("untrained")
        dataset, vocabulary = world, world_vocabulary
        families = explanations(world, world_vocabulary)
        params = init_params(model, jax.random.key(0))

    run = Untrained()
    run.model = model
    return run


def test_generation_goes_on_from_what_is_given(run, world_vocabulary):
    config = EvaluationConfig(max_length=12, batch_size=4)
    result = evaluate_family(run, "explanation", "E-1", "test", limit=6, config=config)
    family = run.families["explanation"]
    said = {(row["user"], row["item"]): row["prediction"] for row in result.per_user.to_pylist()}
    assert len(said) == 6
    logits = jax.jit(
        lambda source, shifted: run.model.apply(
            {"params": run.params}, source, shifted, shifted, enable_dropout=False
        )
    )
    checked = 0
    for index in range(family.size("test")):
        example = family.example("test", index)
        if (example.user, example.item) not in said:
            continue
        source = np.zeros((1, 64), np.int32)
        tokens = [*world_vocabulary.encode(example.inputs), 1]
        source[0, : len(tokens)] = tokens
        answer = world_vocabulary.encode(example.given)
        known = len(answer)
        while len(answer) < 12 and answer[-1] != 1:  # greedy, uncached
            shifted = np.zeros((1, 13), np.int32)
            shifted[0, 1 : len(answer) + 1] = answer
            answer.append(int(jnp.argmax(logits(source, shifted)[0, len(answer)])))
        assert said[example.user, example.item] == world_vocabulary.decode(answer[known:])
        checked += 1
    assert checked == 6


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        ("{iid} {feature}", "{explanation} {feature}", "found {feature} in '{explanation}"),
        ("{iid} {star}", NAMED, "found no {feature} in inputs"),
    ],
)
def test_other_answers_that_name_it_are_refused(inputs, targets, message):
    with pytest.raises(UserError, match="prompt 9-9: ") as caught:
        PromptTemplate("9-9", "explanation", inputs, targets)
    assert message in str(caught.value)
