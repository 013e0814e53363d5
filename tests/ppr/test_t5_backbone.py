"""A soft prompt on a frozen P5 run: what it trains, what it scores, and its folder."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from small_model import token_log_probabilities
from trigger_run import random_run

from p5jax.core.errors import UserError
from p5jax.evaluation.evaluators import EvaluationConfig, evaluate_family
from p5jax.models.t5 import Transformer
from p5jax.pipeline.batching import padded
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.iterator import train_iterator
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig, fit_profiles
from p5jax.ppr.soft.t5_backbone import FAMILY, PROMPT_ID, SoftRun
from p5jax.ppr.soft.training import SoftConfig, load_soft, train_soft
from p5jax.training.checkpoints import params_fingerprint, restore_params
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig

PROMPT = PromptConfig(length=3, hidden=8, attribute_dim=4)
PROFILE = ProfileConfig(("occupation", "age"), bins=4)
PIPELINE = PipelineConfig(batch_size=8, source_lengths=(192,), target_length=8)
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
    state = SoftRun(run, prompt, schema.profiles(run.dataset), text, run.path)
    state.soft = state.initial(0)
    return state


def trained(run, out, steps=6, **changes):
    soft = SoftConfig(str(run.path), str(out), rank_users=8)
    training = replace(TRAINING, steps=steps, **changes)
    return train_soft(run, soft, PROMPT, PROFILE, PIPELINE, OPTIMIZER, training)


def test_only_the_prompt_changes_and_the_loss_falls(run, tmp_path):
    before = params_fingerprint(run.params)
    assert trained(run, tmp_path / "soft", steps=30) == 0
    state = load_soft(tmp_path / "soft", run)
    shapes = {"t5": run.params, "soft": state.soft}
    kept = restore_params(tmp_path / "soft" / "checkpoints", shapes, "latest")
    assert params_fingerprint(kept["t5"]) == params_fingerprint(run.params) == before
    first = state.initial(0)
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
    batch = next(
        train_iterator(state.families, state.vocabulary, replace(PIPELINE, batching="longest"))
    )
    params = {"t5": run.params, "soft": state.soft}
    loss_sum, sums = state.objective()(params, batch, None)
    expected = 0.0
    for source, target in zip(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    ):
        logp = token_log_probabilities(state.model, state.params, source[None], target[None])[0, 0]
        own = logp[np.arange(len(target)), target][target > 0]
        expected -= own.mean()
    assert float(loss_sum) == pytest.approx(expected, rel=1e-5)
    assert float(sums["weight"]) == pytest.approx(len(batch["decoder_target_tokens"]))


def test_ranked_lists_are_those_of_the_embedded_prefix(run):
    """Brute force: the generator's rows and the text's embeddings through encode_embedded."""
    state = soft_run(run, "2-3")
    result = evaluate_family(
        state, FAMILY, PROMPT_ID, "test", limit=6, report=lambda line: None,
        config=EvaluationConfig(batch_size=4, exact=True),
    )  # fmt: skip
    plain = Transformer(run.model.config)
    prefixes = state.prompt.apply({"params": state.soft}, state.profiles.codes_UxM)
    ids = padded([[*run.vocabulary.encode(id), 1] for id in run.dataset.item_ids])
    by_user = {row["user"]: row["top"] for row in result.per_user.to_pylist()}
    assert len(by_user) == 6
    family = run.families[FAMILY]
    for index in range(family.size("test", "2-3")):
        example = family.example("test", index, prompt_id="2-3")
        if example.user not in by_user:
            continue
        text = np.array([[*run.vocabulary.encode(example.inputs), 1]])
        embedded = plain.apply({"params": run.params}, text, method="embed")
        whole = np.concatenate([prefixes[example.user][None], embedded], axis=1)
        tokens = np.concatenate([np.full((1, 3), 9), text], axis=1)
        encoded = plain.apply(
            {"params": run.params}, whole, tokens, enable_dropout=False, method="encode_embedded"
        )
        fed = np.pad(ids, ((0, 0), (1, 0)))[:, :-1]
        logits = plain.apply(
            {"params": run.params}, encoded, tokens, fed, ids, enable_dropout=False, method="decode"
        )
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
    codes = state.profiles.codes_UxM
    same = (codes[:, None] == codes[None]).all(-1)
    distance = np.abs(table[:, None] - table[None]).max(-1)
    assert distance[same].max() < 1e-5
    assert distance[~same].min() > 1e-3


def test_a_stopped_training_goes_on_and_ends_with_the_same_bits(run, tmp_path, monkeypatch):
    import p5jax.training.trainer as trainer

    assert trained(run, tmp_path / "whole") == 0
    agreed = trainer._Loop._agreed
    monkeypatch.setattr(trainer._Loop, "_agreed", lambda self, i: 15 if self.step == 4 else None)
    assert trained(run, tmp_path / "stopped") == 128 + 15
    with pytest.raises(UserError, match="not finished"):
        load_soft(tmp_path / "stopped", run)
    monkeypatch.setattr(trainer._Loop, "_agreed", agreed)
    assert trained(run, tmp_path / "stopped") == 0
    one, other = (load_soft(tmp_path / name, run).soft for name in ("whole", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_folders_of_others_are_refused(run, world, tmp_path):
    assert trained(run, tmp_path / "soft", steps=1) == 0
    other = random_run(world.path, tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="trained with params"):
        load_soft(tmp_path / "soft", other)
    with pytest.raises(UserError, match="choose another"):
        trained(run, tmp_path / "soft", steps=2)
    (tmp_path / "soft" / "soft.json").write_text("{}")
    with pytest.raises(UserError, match="not a run manifest"):
        load_soft(tmp_path / "soft", run)
    with pytest.raises(UserError, match=r"no soft\.json"):
        load_soft(run.path, run)


def test_an_unknown_text_is_refused(run):
    with pytest.raises(UserError, match="text: found '9-9'"):
        dict(soft_run(run, text="9-9").families)
