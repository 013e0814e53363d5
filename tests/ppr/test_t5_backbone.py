"""A soft prompt on a frozen P5 run: what it trains, what it scores, and its folder."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kept_training import stopped_at
from small_model import token_log_probabilities
from trigger_run import random_run

from p5jax.core.errors import Interrupted, UserError
from p5jax.evaluation.evaluators import evaluate_family
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.models.t5 import Transformer
from p5jax.pipeline.batching import padded
from p5jax.pipeline.config import PipelineConfig
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig, fit_profiles
from p5jax.ppr.soft.t5_backbone import FAMILY, PROMPT_ID, SoftBackbone
from p5jax.ppr.soft.training import SOFT_PROMPT, SoftConfig, load_soft, soft_iterator, train_soft
from p5jax.training.checkpoints import params_fingerprint, restore_params
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig

PROMPT = PromptConfig(length=3, hidden=8, attribute_dim=4)
PROFILE = ProfileConfig(("occupation", "age"), bins=4)
PIPELINE = PipelineConfig(batch_size=8, source_lengths=(192,), target_lengths=(2, 8))
OPTIMIZER = OptimizerConfig(learning_rate=0.05, weight_decay=0.1)
TRAINING = TrainConfig(
    steps=6, log_every=2, validate_every=3, checkpoint_every=3,
    best_metric="validation/NDCG@10", best_mode="max",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return random_run(world.path, tmp_path_factory.mktemp("soft") / "run")


def soft_run(run, text="arguments", prompt=PROMPT):
    schema = fit_profiles(run.dataset, np.arange(run.dataset.num_users), PROFILE)
    backbone = SoftBackbone(run, prompt, schema.profiles(run.dataset), text)
    return backbone.with_params(backbone.initial(0), run.path)


def trained(run, out, steps=6, **changes):
    soft = SoftConfig(str(run.path), str(out), rank_users=8)
    training = replace(TRAINING, steps=steps, **changes)
    train_soft(run, soft, PROMPT, PROFILE, PIPELINE, OPTIMIZER, training)


@pytest.mark.check
def test_only_the_prompt_changes_and_the_loss_falls(run, tmp_path):
    before = params_fingerprint(run.params)
    trained(run, tmp_path / "soft", steps=30)
    state = load_soft(tmp_path / "soft", run)
    shapes = {"t5": run.params, "soft": state.soft}
    kept = restore_params(tmp_path / "soft" / "checkpoints", shapes, "latest")
    assert params_fingerprint(kept["t5"]) == params_fingerprint(run.params) == before
    first = state.backbone.initial(0)
    changed = jax.tree.map(
        lambda a, b: bool((np.array(a) != np.array(b)).any()), first, kept["soft"]
    )
    assert all(jax.tree.leaves(changed)), changed
    records = [
        json.loads(x) for x in (tmp_path / "soft" / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [r["train/loss"] for r in records if "train/loss" in r]
    assert losses[-1] < losses[0]


def test_the_objective_is_the_model_s_loss_behind_the_users_own_prefixes(run):
    """Batch rows stand for users: the same loss example by example, with the table of all users."""
    state = soft_run(run)
    batch = next(soft_iterator(state.backbone, replace(PIPELINE, batching="longest")))
    params = {"t5": run.params, "soft": state.soft}
    loss_sum, sums = jax.jit(state.backbone.objective())(params, batch, None)
    expected = 0.0
    sources = state.sources(batch["encoder_input_tokens"], batch["users"])
    for source, target in zip(sources, batch["decoder_target_tokens"], strict=True):
        logp = token_log_probabilities(state.model, state.params, source[None], target[None])[0, 0]
        own = logp[np.arange(len(target)), target][target > 0]
        expected -= own.mean()
    assert float(loss_sum) == pytest.approx(expected, rel=1e-5)
    assert float(sums["weight"]) == pytest.approx(len(batch["decoder_target_tokens"]))


@pytest.mark.check
def test_ranked_lists_are_those_of_the_embedded_prefix(run):
    """Brute force: the generator's rows and the text's embeddings through encode_embedded."""
    state = soft_run(run, "2-3")
    result = evaluate_family(
        state, FAMILY, PROMPT_ID, "test", limit=6, report=lambda line: None,
        config=EvaluationConfig(batch_size=4, exact=True),
    )  # fmt: skip
    plain = Transformer(run.model.config)

    @jax.jit
    def logits_behind(prefix, text, fed, ids):
        embedded = plain.apply({"params": run.params}, text, method="embed")
        whole = jnp.concatenate([prefix[None], embedded], axis=1)
        tokens = jnp.concatenate([jnp.full((1, 3), 9), text], axis=1)
        encoded = plain.apply(
            {"params": run.params}, whole, tokens, enable_dropout=False, method="encode_embedded"
        )
        return plain.apply(
            {"params": run.params}, encoded, tokens, fed, ids, enable_dropout=False, method="decode"
        )

    prefixes = state.backbone.prompt.apply(
        {"params": state.soft}, state.backbone.profiles.codes_UxM
    )
    ids = padded([[*run.vocabulary.encode(id), 1] for id in run.dataset.item_ids])
    by_user = {row["user"]: row["top"] for row in result.per_user.to_pylist()}
    assert len(by_user) == 6
    family = run.families[FAMILY]
    for index in range(family.size("test", "2-3")):
        example = family.example("test", index, prompt_id="2-3")
        if example.user not in by_user:
            continue
        text = np.array([[*run.vocabulary.encode(example.inputs), 1]])
        fed = np.pad(ids, ((0, 0), (1, 0)))[:, :-1]
        logits = logits_behind(prefixes[example.user], text, fed, ids)
        logp = np.take_along_axis(np.array(jax.nn.log_softmax(logits)), ids[..., None], 2)[..., 0]
        scores = (logp * (ids > 0)).sum(axis=1)
        scores[run.dataset.history(example.user, "test")] = -np.inf
        best = np.argsort(-scores)[:10]
        np.testing.assert_allclose(
            scores[by_user[example.user]], scores[best], rtol=1e-4, err_msg=str(example.user)
        )


def test_users_of_other_profiles_have_other_prefixes_and_lists(run):
    state = soft_run(run)
    state.soft["generator"]["mlp"]["w2"]["kernel"] *= 30.0
    table = np.array(state.params["prefix"]).reshape(run.dataset.num_users, -1)
    codes = state.backbone.profiles.codes_UxM
    same = (codes[:, None] == codes[None]).all(-1)
    distance = np.abs(table[:, None] - table[None]).max(-1)
    assert distance[same].max() < 1e-5
    assert distance[~same].min() > 1e-3


@pytest.mark.check
def test_a_stopped_training_resumes_and_ends_with_the_same_bits(run, tmp_path):
    trained(run, tmp_path / "whole")
    with stopped_at(4), pytest.raises(Interrupted, match="step 4") as stopped:
        trained(run, tmp_path / "stopped")
    assert stopped.value.signal == signal.SIGTERM
    with pytest.raises(UserError, match="found an unfinished training"):
        load_soft(tmp_path / "stopped", run)
    trained(run, tmp_path / "stopped")
    one, other = (load_soft(tmp_path / name, run).soft for name in ("whole", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_folders_of_others_are_refused(run, world, tmp_path):
    trained(run, tmp_path / "soft", steps=1)
    other = random_run(world.path, tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="trained with params"):
        load_soft(tmp_path / "soft", other)
    with pytest.raises(UserError, match=r"the linear schedule ends at step 1, .*choose another"):
        trained(run, tmp_path / "soft", steps=2)
    assert SOFT_PROMPT.read(tmp_path / "soft")["settings"]["TrainConfig"]["steps"] == 1
    (tmp_path / "soft" / "soft.json").write_text("{}")
    with pytest.raises(UserError, match="found no format_version, expected what p5jax ppr soft"):
        load_soft(tmp_path / "soft", run)
    with pytest.raises(UserError, match=r"no soft\.json"):
        load_soft(run.path, run)


def test_an_unknown_text_is_refused(run):
    with pytest.raises(UserError, match="text: found '9-9'"):
        dict(soft_run(run, text="9-9").families)


def test_batches_have_their_users_and_no_sign_of_them_in_the_text(run):
    """The example of each row is its user's; the shapes leave room for the prefix."""
    state = soft_run(run)
    config = replace(PIPELINE, source_lengths=(64, 192), batching="buckets")
    batch = next(soft_iterator(state.backbone, config))
    assert batch["users"].dtype == np.int32
    assert batch["users"].shape == (8,)
    assert len(set(batch["users"].tolist())) > 1
    assert batch["encoder_input_tokens"].shape[1] in (64 - 3, 192)
    for user, source in zip(batch["users"].tolist(), batch["encoder_input_tokens"], strict=True):
        assert source.max() < run.vocabulary.padded_size
        name = run.vocabulary.decode(source[source > 0].tolist()).split()
        assert f"user_{user + 1}" in name or run.dataset.user_names[user].split()[0] in name
    with pytest.raises(UserError, match="found packed"):
        soft_iterator(state.backbone, replace(PIPELINE, batching="packed"))
    with pytest.raises(UserError, match="shards: found somewhere, expected none"):
        soft_iterator(state.backbone, replace(PIPELINE, shards="somewhere"))


def test_a_state_of_an_earlier_version_resumes(run):
    """Earlier versions wrote the prefix into the vocabulary's name and the sources' lengths."""
    state = soft_run(run)
    iterator = soft_iterator(state.backbone, PIPELINE)
    identity = iterator.get_state()["identity"]
    assert identity["vocabulary"] == f"{run.vocabulary.fingerprint}+3"
    assert identity["source_lengths"] == [192, 195]
    iterator.set_state({"window": 1, "position": 2, "pipeline": identity})
    assert iterator.get_state()["epoch"] == 1


def test_another_prompt_s_parameters_make_another_run(run):
    state = soft_run(run)
    other = state.backbone.with_params(state.backbone.initial(1), run.path)
    assert other.families is state.families
    assert np.abs(np.array(other.params["prefix"]) - np.array(state.params["prefix"])).max() > 0.1
