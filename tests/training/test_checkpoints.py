from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from p5jax.core.errors import UserError
from p5jax.parallel.partitioning import make_mesh, replicated
from p5jax.training.checkpoints import (
    Checkpoints,
    Damaged,
    available_steps,
    find_step,
    restore_params,
)
from p5jax.training.optimizer import OptimizerConfig, make_optimizer


def _params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "encoder": {"layers_0": {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}},
        "norm": {"scale": jnp.asarray(rng.normal(size=4), jnp.float32)},
    }


def _state(seed=0, name="adamw"):
    params = _params(seed)
    tx, _ = make_optimizer(OptimizerConfig(name=name), 10)
    inner = {"step": jnp.int32(seed), "param_states": tx.init(params)}
    return {"target": params, "state": inner}


def _abstract(tree):
    sharding = replicated(make_mesh())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 1 to 6, the best being step 2; the last two are kept beside it."""
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in range(1, 7):
            best = {"step": min(step, 2), "value": 0.5}
            checkpoints.save(step, _state(step), {"step": step, "best": best})
    return tmp_path / "checkpoints"


def test_the_last_and_the_best_are_kept(folder):
    assert available_steps(folder) == [2, 5, 6]
    assert sorted(p.name for p in folder.iterdir()) == [f"checkpoint_{s}" for s in (2, 5, 6)]
    assert find_step(folder, "latest") == 6
    assert find_step(folder, "best") == 2
    assert find_step(folder, 5) == 5


def test_state_and_progress_come_back(folder):
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        for step in (2, 6):
            state = checkpoints.restore(step, _abstract(_state()))
            _assert_equal(state, _state(step))
            assert checkpoints.progress(step)["step"] == step


def test_saving_is_a_snapshot_of_donated_arrays(tmp_path):
    """What is being written in the background must not see the next step's values."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = step(jnp.zeros((500, 500)))
    state = {"target": {"x": x}, "state": {"step": jnp.int32(1)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(20):
            x = step(x)
        x.block_until_ready()
    assert (restore_params(tmp_path)["x"] == 1).all()


def test_parameters_alone(folder):
    expected = {"best": 2, "latest": 6, 5: 5}
    for which, step in expected.items():
        _assert_equal(restore_params(folder, which=which), _params(step))
    sharded = restore_params(folder, _abstract(_params()), "latest")
    _assert_equal(sharded, _params(6))
    assert sharded["norm"]["scale"].sharding == replicated(make_mesh())


def test_layout_is_t5xs(folder):
    """Plain Orbax, set up as t5x does, reads the item `state` = {target, state}."""
    manager = ocp.CheckpointManager(
        folder,
        item_names=("state",),
        options=ocp.CheckpointManagerOptions(step_prefix="checkpoint", read_only=True),
    )
    restored = manager.restore(6, args=ocp.args.Composite(state=ocp.args.PyTreeRestore()))
    assert set(restored["state"]) == {"target", "state"}
    assert set(restored["state"]["state"]) == {"step", "param_states"}
    assert int(restored["state"]["state"]["step"]) == 6
    _assert_equal(restored["state"]["target"], jax.tree.map(np.asarray, _params(6)))


def test_best_without_validation_is_the_latest(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, _state(3), {"best": None})
    assert find_step(tmp_path, "best") == 3


def test_leftovers_of_a_kill_are_not_checkpoints(folder):
    leftover = folder / "checkpoint_7.orbax-checkpoint-tmp"
    shutil.copytree(folder / "checkpoint_6", leftover)
    assert available_steps(folder) == [2, 5, 6]
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        checkpoints.save(8, _state(8), {})
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (7, r"found no step 7, expected one of \[2, 5, 6\]"),
        ("newest", "found 'newest', expected latest, best or a step number"),
    ],
)
def test_a_checkpoint_that_is_not_there(folder, which, message):
    with pytest.raises(UserError, match=message):
        find_step(folder, which)


def test_an_absent_or_empty_folder(tmp_path):
    with pytest.raises(UserError, match="found no checkpoint"):
        restore_params(tmp_path / "nowhere")
    with pytest.raises(UserError, match="found no checkpoint"):
        restore_params(tmp_path)


@pytest.mark.parametrize("file", ["state/_METADATA", "progress/metadata", "state/manifest.ocdbt"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_checkpoint_is_one_line(folder, file, share):
    damaged = folder / "checkpoint_6" / file
    content = damaged.read_bytes()
    damaged.write_bytes(content[: int(len(content) * share)])
    with Checkpoints(folder) as checkpoints:
        read = checkpoints.progress if file.startswith("progress") else checkpoints.restore
        arguments = () if file.startswith("progress") else (_abstract(_state()),)
        with pytest.raises(UserError, match=r"^[^\n]*checkpoint_6: found a damaged[^\n]*$"):
            read(6, *arguments)


def test_another_model_or_optimizer_is_refused(folder):
    wider = {**_params(), "norm": {"scale": jnp.ones(5)}}
    with pytest.raises(UserError, match=r"norm/scale: found shape \(4,\), expected \(5,\)"):
        restore_params(folder, wider)
    with pytest.raises(UserError, match=r"found no array target/new, expected one of shape"):
        restore_params(folder, {**_params(), "new": jnp.ones(2)})
    with pytest.raises(UserError, match=r"found an array target/norm/scale that the model has no"):
        restore_params(folder, {"encoder": _params()["encoder"]})
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(UserError, match="found no array state/param_states"),
    ):
        checkpoints.restore(6, _abstract(_state(name="adafactor")))


def test_progress_is_json(folder):
    progress = json.loads((folder / "checkpoint_6" / "progress" / "metadata").read_text())
    assert progress == {"step": 6, "best": {"step": 2, "value": 0.5}}


def _flips(folder, step, places):
    """Flip one bit at each of the places (shares of a file) of each file of a checkpoint.

    Yields (file, whether it was refused); what is not refused must be what was saved.
    """
    path = folder / f"checkpoint_{step}"
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size):
        content = file.read_bytes()
        for place in places:
            changed = bytearray(content)
            changed[int(place * (len(content) - 1))] ^= 1 << int(place * 97) % 8
            file.write_bytes(changed)
            try:
                with Checkpoints(folder) as checkpoints:
                    assert checkpoints.progress(step)["step"] == step
                    _assert_equal(checkpoints.restore(step, _abstract(_state())), _state(step))
                _assert_equal(restore_params(folder, which=step), _params(step))
                refused = False
            except Damaged:
                refused = True
            yield file.relative_to(path), refused
        file.write_bytes(content)


def test_a_flipped_bit_is_seen_in_each_file(folder):
    found = dict(_flips(folder, 6, [0.5]))
    # Of these Orbax writes copies, or reads nothing.
    unread = {"_CHECKPOINT_METADATA", "commit_success.txt", "progress/commit_success.txt"}
    assert {str(file) for file, refused in found.items() if not refused} <= unread
    assert sum(found.values()) >= 8


@pytest.mark.check
def test_flipped_bits_never_give_other_weights(folder):
    """Without checksums four of five in the state's files gave other weights, unnoticed."""
    found = list(_flips(folder, 6, np.linspace(0, 1, 8)))
    refused = sum(refused for _, refused in found)
    print(f"{len(found)} flipped bits: {refused} refused, the others changed nothing")
    assert len(found) >= 100
    assert refused >= 0.7 * len(found)


def test_a_file_that_is_missing_or_cut_is_seen(folder):
    path = folder / "checkpoint_6"
    data = max((path / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"damaged checkpoint .*; steps 2, 5 are there too$"):
        restore_params(folder, which=6)
    data.unlink()
    with pytest.raises(UserError, match="found a damaged checkpoint"):
        restore_params(folder, which=6)
    _assert_equal(restore_params(folder, which=5), _params(5))


def test_checkpoints_of_earlier_versions_have_no_checksums(folder):
    (folder / "checkpoint_6" / "progress" / "checksums.json").unlink()
    _assert_equal(restore_params(folder, which=6), _params(6))


def test_a_damaged_checkpoint_is_set_aside(folder):
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.set_aside(6).name == "damaged_checkpoint_6"
        assert checkpoints.steps() == [2, 5] == available_steps(folder)
        checkpoints.save(6, _state(6), {"step": 6})
        checkpoints.wait()
        assert checkpoints.set_aside(6).name == "damaged_checkpoint_6_2"
