"""p5jax's model under t5x itself, installed beside the project; skipped where it is not."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax.core import unfreeze
from t5x_run import LENGTHS, SIZES, p5jax_train

from gin import config as gin  # type: ignore[attr-defined]
from p5jax.core.config import gin_folder
from p5jax.core.errors import UserError
from p5jax.models.checkpoints.t5x import import_t5x
from p5jax.training.checkpoints import restore_params
from p5jax.training.objective import loss_fn

REASON = "needs t5x, which is installed by hand"
pytestmark = pytest.mark.extras
adafactor = pytest.importorskip("t5x.adafactor", reason=REASON)
checkpoints = pytest.importorskip("t5x.checkpoints", reason=REASON)
decoding = pytest.importorskip("t5x.decoding", reason=REASON)
partitioning = pytest.importorskip("t5x.partitioning", reason=REASON)
utils = pytest.importorskip("t5x.utils", reason=REASON)
seqio = pytest.importorskip("seqio", reason=REASON)
adapter = pytest.importorskip("p5jax.tasks.t5x", reason=REASON)

ROWS = 8


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """Three steps of `p5jax train` at a high rate."""
    return p5jax_train(world, tmp_path_factory.mktemp("native") / "run", LEARNING_RATE=0.1)


def configure(world, run):
    """gin as gin/t5x/model.gin has it for the run's dataset, vocabulary and sizes."""
    values = {
        "DATASET": repr(str(world.path)),
        "VOCABULARY": repr(str(run.path / "vocabulary")),
        "p5jax.tasks.register.families": ("rating", "sequential"),
        "TASK_FEATURE_LENGTHS": LENGTHS,
        "BEAM": 3,
        **{f"T5Config.{name}": size for name, size in SIZES.items()},
    }
    gin.clear_config()
    file = str(gin_folder() / "t5x" / "model.gin")
    bindings = [f"{name} = {v}" for name, v in values.items()]
    # Not finalized: what t5x's programs take is not used here.
    gin.parse_config_files_and_bindings([file], bindings, finalize_config=False)


@pytest.fixture(scope="module")
def model(world, run):
    """What those gin files make."""
    configure(world, run)
    return gin.get_configurable(adapter.EncoderDecoderModel)()


@pytest.fixture(autouse=True)
def configured(world, run, model):
    """t5x asks gin as it decodes too, and `p5jax train` in between clears what gin knows."""
    configure(world, run)
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def batches(model):
    """Two packed batches of the validation split, as t5x's trainer gets them."""
    dataset = seqio.get_dataset(
        mixture_or_task_name="p5_synthetic",
        task_feature_lengths=LENGTHS,
        dataset_split="validation",
        shuffle=False,
        feature_converter=model.FEATURE_CONVERTER_CLS(pack=True),
    )
    taken = list(dataset.batch(ROWS, drop_remainder=True).take(2).as_numpy_iterator())
    assert max(batch["decoder_segment_ids"].max() for batch in taken) > 1
    return taken


def initializer(model, optimizer):
    shapes = {
        f"encoder_{n}": (ROWS, LENGTHS["inputs"])
        for n in ("input_tokens", "segment_ids", "positions")
    }
    names = ("input_tokens", "target_tokens", "segment_ids", "positions", "loss_weights")
    shapes |= {f"decoder_{n}": (ROWS, LENGTHS["targets"]) for n in names}
    return utils.TrainStateInitializer(
        optimizer_def=optimizer,
        init_fn=model.get_initial_variables,
        input_shapes=shapes,  # and no types, as in t5x.eval
        partitioner=partitioning.PjitPartitioner(num_partitions=1),
    )


@pytest.fixture(scope="module")
def states(model):
    return initializer(model, model.optimizer_def)


def restored(states, path, **options):
    """A checkpoint as t5x restores it."""
    settings = utils.RestoreCheckpointConfig(path=str(path), mode="specific", **options)
    rng = jax.random.PRNGKey(5)
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    return utils.create_checkpoint_manager_and_restore(
        states, partitioner, settings, str(path), rng, use_orbax=True
    )[0]


def uncached(run, *arrays):
    """The native model's logits."""
    return _apply(run.model, run.params, *arrays)


@partial(jax.jit, static_argnums=0)
def _apply(module, params, *arrays):
    return module.apply({"params": params}, *arrays, enable_dropout=False)


FINETUNING = {"fallback_to_scratch": True, "state_transformation_fns": [adapter.parameters_only]}


def assert_equal(a, b):
    a, b = (jax.tree.map(np.asarray, unfreeze(tree)) for tree in (a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_both_paths_give_the_same_loss_on_the_same_batches(run, model, states, batches):
    """A checkpoint of `p5jax train`: t5x's restoration and loss against p5jax's own."""
    state = restored(states, run.path / "checkpoints" / "checkpoint_3", **FINETUNING)
    assert int(state.step) == 3
    assert_equal(state.params, run.params)
    for batch in batches:
        total, _ = model.eval_fn(state.params, batch)
        weight = batch["decoder_loss_weights"].sum()
        native = loss_fn(run.model, run.params, batch)
        assert abs(float(total) / weight - float(native)) < 1e-5
        logits = model._compute_logits(state.params, batch)
        names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
        names += ("encoder_segment_ids", "decoder_segment_ids")
        native = uncached(run, *(batch[name] for name in names))
        np.testing.assert_allclose(logits, native, rtol=0, atol=1e-6)


def test_training_goes_on_from_t5x_checkpoints_of_both_formats(world, run, states, tmp_path):
    state = states.from_scratch(jax.random.PRNGKey(1))
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    for form in ("orbax", "legacy"):
        (tmp_path / form).mkdir()
    manager = checkpoints.OrbaxCheckpointManagerInterface(
        str(tmp_path / "orbax"), state, partitioner
    )
    manager.save(state)
    manager.close()
    checkpoints.Checkpointer(state, partitioner, str(tmp_path / "legacy")).save(state)
    for form in ("orbax", "legacy"):
        path = tmp_path / form / "checkpoint_0"
        assert_equal(import_t5x(path, run.model.config), state.params)
        assert_equal(restored(states, path, **FINETUNING).params, state.params)
    start = {"RunConfig.initial_checkpoint": tmp_path / "orbax" / "checkpoint_0"}
    done = p5jax_train(world, tmp_path / "on", STEPS=1, LEARNING_RATE=0.0, **start)
    assert_equal(restore_params(done.path / "checkpoints"), state.params)


def test_a_part_of_the_mixture_is_named_by_its_suffix(model):
    assert adapter.part_of("p5_synthetic") == "p5_synthetic"
    assert adapter.part_of("p5_synthetic", "sequential_2_3") == "p5_synthetic_sequential_2_3"
    with pytest.raises(UserError, match=r"found 'p5_synthetic_sequental'.*p5_synthetic_sequential"):
        adapter.part_of("p5_synthetic", "sequental")


def test_a_split_is_one_that_there_is(model):
    assert adapter.split_of("p5_synthetic", "validation") == "validation"
    assert adapter.split_of("p5_synthetic_sequential_2_13", "test") == "test"
    expected = r"SPLIT: found 'tset', expected one of test, train, validation; did you mean test"
    with pytest.raises(UserError, match=expected):
        adapter.split_of("p5_synthetic", "tset")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_decoder_layers": 3}, r"found no array decoder/layers_2, .*another T5Config"),
        ({"whole_words": False}, r"found whole_word_embedder, which this T5Config does not have"),
    ],
)
def test_fine_tuning_refuses_a_checkpoint_of_other_parameters(run, model, changes, message):
    path = run.path / "checkpoints" / "checkpoint_3"
    config = dataclasses.replace(model.module.config, **changes)
    other = adapter.EncoderDecoderModel(
        model.module.clone(config=config),
        model.input_vocabulary,
        model.output_vocabulary,
        model.optimizer_def,
    )
    with pytest.raises(UserError, match=message):
        restored(initializer(other, model.optimizer_def), path, **FINETUNING)


def test_a_resumed_state_is_left_as_it_is():
    target = {"target": {"a": 1}, "state": {"step": 2, "param_states": {}}}
    assert adapter.parameters_only(target, {"target": {"a": 0, "b": 0}}, is_resuming=True) is target


def test_beam_search_finds_the_scores_that_the_model_gives(run, model):
    """t5x's beams over p5jax's cache: each score is the answer's log-probability, uncached."""
    rng = np.random.default_rng(0)
    vocabulary = run.vocabulary.size
    source = rng.integers(3, vocabulary, (4, 12)).astype(np.int32)
    source[2, 7:] = 0
    batch = {"encoder_input_tokens": source, "decoder_input_tokens": np.zeros((4, 6), np.int32)}
    decodes, aux = model.predict_batch_with_aux(run.params, batch)
    decodes, scores = np.asarray(decodes), np.asarray(aux["scores"])
    assert decodes.shape == (4, 3, 6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert len({tuple(row) for row in decodes[0].tolist()}) == 3
    # Three rows of targets for each source: their sources in turn.
    rows = np.repeat(source, 3, axis=0)
    said = decodes.reshape(12, 6)
    fed = np.pad(said, ((0, 0), (1, 0)))[:, :-1]
    probabilities = np.asarray(jax.nn.log_softmax(uncached(run, rows, fed, fed)))
    chosen = np.take_along_axis(probabilities, said[..., None], axis=-1)[..., 0]
    expected = (chosen * (said > 0)).sum(axis=-1).reshape(4, 3)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_greedy_decoding_takes_the_most_probable_token_at_each_step(run, model):
    """t5x's other decoding, at temperature 0, over the same cache."""
    greedy = adapter.EncoderDecoderModel(
        model.module,
        model.input_vocabulary,
        model.output_vocabulary,
        model.optimizer_def,
        decode_fn=partial(decoding.temperature_sample, temperature=0.0),
    )
    source = np.random.default_rng(1).integers(3, 300, (12, 12)).astype(np.int32)
    batch = {"encoder_input_tokens": source, "decoder_input_tokens": np.zeros((12, 6), np.int32)}
    decodes = np.asarray(greedy.predict_batch(run.params, batch, rng=jax.random.PRNGKey(0)))
    assert decodes.shape == (12, 6)
    said = np.zeros((12, 6), np.int32)
    for step in range(6):
        fed = np.pad(said, ((0, 0), (1, 0)))[:, :-1]
        best = np.asarray(uncached(run, source, fed, fed))[:, step].argmax(axis=-1)
        ended = (said == 1).any(axis=1)
        said[:, step] = np.where(ended, 0, best)
    assert decodes.tolist() == said.tolist()


def test_t5xs_standard_rules_know_every_axis(model):
    """Sharding and Adafactor, whose factors need 128 rows and columns, of a wider model."""
    config = {**model.module.config.__dict__, "emb_dim": 128}
    wide = adapter.EncoderDecoderModel(
        model.module.clone(config=model.module.config.__class__(**config)),
        model.input_vocabulary,
        model.output_vocabulary,
        adafactor.Adafactor(logical_factor_rules=adafactor.standard_logical_factor_rules()),
    )
    states = initializer(wide, wide.optimizer_def)
    shapes, axes = states.global_train_state_shape, states.train_state_axes
    assert axes.params["whole_word_embedder"]["embedding"] == jax.sharding.PartitionSpec(None, None)
    assert axes.params["token_embedder"]["embedding"] == jax.sharding.PartitionSpec("model", None)
    # Factored by size: t5x ignores its rules for arrays of rank two.
    for table, rows in (("whole_word_embedder", 512), ("token_embedder", config["vocab_size"])):
        moments = shapes.param_states[table]["embedding"]
        assert moments.v.shape == (1,)
        assert {moments.v_row.shape, moments.v_col.shape} == {(128,), (rows,)}
    assert shapes.param_states["encoder"]["relpos_bias"]["rel_embedding"].v.shape == (2, 32)
