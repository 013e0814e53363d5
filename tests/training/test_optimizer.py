from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from p5jax.core.errors import UserError
from p5jax.training.optimizer import OptimizerConfig, decay_mask, make_optimizer, make_schedule

SHAPES = {
    "encoder": {
        "mlp": {"wi": {"kernel": (6, 5)}},
        "norm": {"scale": (6,)},
        "relpos_bias": {"rel_embedding": (2, 4)},
    },
    "token_embedder": {"embedding": (7, 6)},
}


def _tree(rng, shapes=SHAPES):
    return {
        k: _tree(rng, v) if isinstance(v, dict) else jnp.asarray(rng.normal(size=v), jnp.float32)
        for k, v in shapes.items()
    }


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # 100 steps, 10 of warm-up, peak 0.5; rates of the steps 0, 1, 5, 10, 40, 55, 99, 100
        ("linear", [0, 0.05, 0.25, 0.5, 1 / 3, 0.25, 0.5 / 90, 0]),
        ("constant", [0, 0.05, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ("rsqrt", [0, 0.05, 0.25, 0.5, 0.25, 0.5 * (10 / 55) ** 0.5, 0.5 * (10 / 99) ** 0.5]),
    ],
)
def test_schedule_values(schedule, expected):
    config = OptimizerConfig(learning_rate=0.5, warmup_fraction=0.1, schedule=schedule)
    rate = make_schedule(config, 100)
    steps = [0, 1, 5, 10, 40, 55, 99, 100][: len(expected)]
    np.testing.assert_allclose([rate(s) for s in steps], expected, rtol=1e-6, atol=1e-9)


def test_schedule_without_warmup_starts_at_the_peak():
    for schedule in ("linear", "constant", "rsqrt"):
        config = OptimizerConfig(learning_rate=0.5, warmup_fraction=0.0, schedule=schedule)
        assert float(make_schedule(config, 10)(0)) == 0.5


@pytest.mark.extras
def test_linear_schedule_is_hugging_faces():
    torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers (make test-extras)"
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = transformers.get_linear_schedule_with_warmup(optimizer, 3, 37)
    ours = make_schedule(OptimizerConfig(learning_rate=0.3, warmup_fraction=0.08), 37)
    for step in range(37):
        assert float(ours(step)) == pytest.approx(theirs.get_last_lr()[0], rel=1e-5, abs=1e-9)
        optimizer.step()
        theirs.step()


def test_decay_leaves_out_norms_and_biases():
    mask = decay_mask(_tree(np.random.default_rng(0)))
    assert mask == {
        "encoder": {
            "mlp": {"wi": {"kernel": True}},
            "norm": {"scale": False},
            "relpos_bias": {"rel_embedding": False},
        },
        "token_embedder": {"embedding": True},
    }


@pytest.mark.extras
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adamw_is_torchs(clip):
    torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
    rng = np.random.default_rng(1)
    params = _tree(rng)
    leaves, structure = jax.tree.flatten(params)
    decayed = jax.tree.leaves(decay_mask(params))
    theirs = [torch.nn.Parameter(torch.tensor(np.asarray(x))) for x in leaves]
    groups = [
        {"params": [p for p, d in zip(theirs, decayed, strict=True) if d], "weight_decay": 0.1},
        {"params": [p for p, d in zip(theirs, decayed, strict=True) if not d], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99), eps=1e-6)
    config = OptimizerConfig(
        learning_rate=0.01,
        warmup_fraction=0.0,
        schedule="constant",
        weight_decay=0.1,
        b2=0.99,
        clip=clip,
    )
    tx, _ = make_optimizer(config, 10)
    state = tx.init(params)
    for _ in range(4):
        grads = _tree(rng)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for p, g in zip(theirs, jax.tree.leaves(grads), strict=True):
            p.grad = torch.tensor(np.asarray(g))
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        optimizer.step()
    expected = jax.tree.unflatten(structure, [p.detach().numpy() for p in theirs])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), params, expected)


def test_adafactor_is_the_papers_algorithm_4():
    rng = np.random.default_rng(2)
    params = {"kernel": jnp.asarray(rng.normal(size=(128, 130)), jnp.float32)}
    config = OptimizerConfig(
        name="adafactor",
        learning_rate=0.01,
        warmup_fraction=0.0,
        schedule="constant",
        weight_decay=0.1,
        clip=0.0,
    )
    tx, _ = make_optimizer(config, 10)
    state = tx.init(params)
    x = np.asarray(params["kernel"], np.float64)
    row, column = np.zeros(128), np.zeros(130)
    for t in range(1, 4):
        g = rng.normal(size=x.shape)
        updates, state = tx.update({"kernel": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        beta = 1 - t**-0.8
        row = beta * row + (1 - beta) * (g**2 + 1e-30).mean(axis=1)
        column = beta * column + (1 - beta) * (g**2 + 1e-30).mean(axis=0)
        u = g / np.sqrt(np.outer(row, column) / row.mean())
        u /= max(1.0, np.sqrt((u**2).mean()))
        x = x - 0.01 * (max(1e-3, np.sqrt((x**2).mean())) * u + 0.1 * x)
        np.testing.assert_allclose(params["kernel"], x, atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "sgd"},
        {"schedule": "cosine"},
        {"warmup_fraction": 1.5},
        {"accumulate": 0},
        {"learning_rate": -1.0},
    ],
)
def test_bad_settings_are_one_line(bad):
    with pytest.raises(UserError, match=r"^[^\n]*found[^\n]*expected[^\n]*$"):
        OptimizerConfig(**bad)
