"""Training of chosen parameters: exactly those change, the others keep every bit."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from p5jax.core.errors import UserError
from p5jax.parallel.partitioning import MeshConfig, make_mesh, path_name
from p5jax.training.checkpoints import restore_params
from p5jax.training.freezing import merged, split
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig, train

RATE, DECAY = 0.1, 0.5
NAMES = ("body/layer/bias", "body/layer/kernel", "head/kernel", "table/embedding")


def params():
    rng = np.random.default_rng(0)

    def array(*shape):
        # -0.0 too: adding an update of zero would turn it into 0.0
        values = rng.normal(size=shape).astype(np.float32)
        values.flat[0] = -0.0
        return jnp.asarray(values)

    return {
        "body": {"layer": {"kernel": array(3, 3), "bias": array(3)}},
        "head": {"kernel": array(3, 2)},
        "table": {"embedding": array(5, 3)},
    }


AXES = {
    "body": {"layer": {"kernel": ("embed", "mlp"), "bias": ("mlp",)}},
    "head": {"kernel": ("embed", "mlp")},
    "table": {"embedding": ("vocab", "embed")},
}


def predicted(p, item):
    x = p["table"]["embedding"][item] @ p["body"]["layer"]["kernel"] + p["body"]["layer"]["bias"]
    return jnp.tanh(x) @ p["head"]["kernel"]


def objective(p, batch, rng):
    """Squared error of rows; it knows no tokens and scores nothing."""
    loss = jnp.sum((predicted(p, batch["item"]) - batch["target"]) ** 2)
    rows = jnp.float32(len(batch["item"]))
    return loss, {"loss_sum": loss, "weight": rows, "examples": rows}


class Rows:
    def __init__(self):
        self.position = 0

    def __next__(self):
        rng = np.random.default_rng(self.position)
        self.position += 1
        target = rng.normal(size=(8, 2)).astype(np.float32)
        return {"item": rng.integers(0, 5, 8).astype(np.int32), "target": target}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def trained(folder, trainable, stream=None, **changes):
    settings = {"name": "adamw", "clip": 0.0, **changes}
    return train(
        *(objective, params(), AXES, Rows()),
        OptimizerConfig(
            learning_rate=RATE, weight_decay=DECAY, schedule="constant", warmup_fraction=0.0,
            **settings,
        ),
        make_mesh(MeshConfig(1, 1)),
        TrainConfig(steps=3, log_every=1),
        folder,
        validation_batches=[next(Rows())],
        trainable=trainable,
        stream=stream or io.StringIO(),
    )  # fmt: skip


def leaves(tree):
    return {
        path_name(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize(
    ("trainable", "changed"),
    [
        (("*",), set(NAMES)),
        (("head/*",), {"head/kernel"}),
        (("*/bias", "table/*"), {"body/layer/bias", "table/embedding"}),
        (("*kernel",), {"body/layer/kernel", "head/kernel"}),
    ],
)
@pytest.mark.parametrize("change", [{}, {"name": "adafactor"}, {"clip": 0.1, "accumulate": 2}])
def test_exactly_the_named_parameters_change(tmp_path, trainable, changed, change):
    result = trained(tmp_path, trainable, **change)
    before, after = leaves(params()), leaves(result.params)
    assert set(after) == set(before) == set(NAMES)
    for name in NAMES:
        same = before[name].tobytes() == after[name].tobytes()
        assert same == (name not in changed), name
    saved = leaves(restore_params(tmp_path / "checkpoints", which="latest"))
    assert {n: v.tobytes() for n, v in saved.items()} == {n: v.tobytes() for n, v in after.items()}


def test_the_trained_ones_move_as_if_the_others_were_constants(tmp_path):
    """optax on a function of the trained parameter alone is the oracle."""
    tx = optax.adamw(RATE, eps=1e-6, weight_decay=DECAY)
    constant, rows = params(), Rows()
    kernel = constant["head"]["kernel"]
    state = tx.init(kernel)
    for _ in range(3):
        batch = next(rows)

        def mean_loss(kernel, batch=batch):
            error = predicted({**constant, "head": {"kernel": kernel}}, batch["item"])
            return jnp.sum((error - batch["target"]) ** 2) / 8

        updates, state = tx.update(jax.grad(mean_loss)(kernel), state, kernel)
        kernel = optax.apply_updates(kernel, updates)
    result = trained(tmp_path, ("head/*",))
    np.testing.assert_allclose(result.params["head"]["kernel"], kernel, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_have_no_optimizer_state(tmp_path):
    def numbers(trainable, folder):
        trained(tmp_path / folder, trainable)
        import orbax.checkpoint as ocp

        path = tmp_path / folder / "checkpoints" / "checkpoint_3" / "state"
        state = ocp.PyTreeCheckpointHandler().metadata(path).tree["state"]["param_states"]
        arrays = jax.tree.leaves(state, is_leaf=lambda leaf: hasattr(leaf, "shape"))
        return sum(int(np.prod(leaf.shape)) for leaf in arrays if leaf.shape)

    every = sum(leaf.size for leaf in jax.tree.leaves(params()))
    assert numbers(("*",), "all") == 2 * every
    assert numbers(("head/*",), "head") == 2 * params()["head"]["kernel"].size


def test_sums_that_an_objective_does_not_give_are_not_recorded(tmp_path):
    stream = io.StringIO()
    result = trained(tmp_path, ("*",), stream)
    assert "compiling step, shapes 8, 8 x 2 ..." in stream.getvalue()
    assert "tokens/s" not in stream.getvalue()
    assert result.metrics["train/examples_per_step"] == 8
    assert {"train/loss", "validation/loss"} <= set(result.metrics)
    assert not {"train/accuracy", "train/tokens_per_second", "validation/accuracy"} & set(
        result.metrics
    )


def test_split_and_merged_are_inverse_and_a_pattern_without_a_match_is_refused():
    tree = params()
    chosen, rest = split(tree, ("body/*",))
    assert set(leaves(chosen)) == {"body/layer/bias", "body/layer/kernel"}
    assert set(leaves(rest)) == {"head/kernel", "table/embedding"}
    assert jax.tree.structure(merged(chosen, rest)) == jax.tree.structure(tree)
    with pytest.raises(UserError, match=r"'generator/\*' matches no parameter, expected paths"):
        split(tree, ("head/*", "generator/*"))
