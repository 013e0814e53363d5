"""SeqIO tasks of Musical Instruments against the native pipeline and a known predictor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from native_stream import check_rows

from p5jax.cli.main import main
from p5jax.data.dataset import SPLITS, Dataset
from p5jax.pipeline.config import PipelineConfig
from p5jax.prompts.families import FamilyConfig, make_families
from p5jax.prompts.template_files import load_templates
from p5jax.text.vocabulary import Vocabulary

pytestmark = pytest.mark.extras
seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")
import tensorflow as tf  # noqa: E402

import p5jax.tasks  # noqa: E402


@pytest.fixture(scope="module")
def instruments(shared, tmp_path_factory):
    """Musical Instruments: its tasks as SeqIO has them, and its families and vocabulary."""
    folder = tmp_path_factory.mktemp("instruments")
    reviews = shared / "data" / "amazon" / "musical_instruments"
    words = str(reviews / "feature_words.txt")
    reviews = str(reviews / "reviews_Musical_Instruments_5.json.gz")
    command = ["data", "prepare", "amazon", "--reviews", reviews, "--feature-words", words]
    data, out = str(folder / "data"), str(folder / "vocabulary")
    assert main([*command, "--out", data, "--item-ids", "token"]) == 0
    assert main(["data", "vocabulary", data, "--out", out, "--size", "2000"]) == 0
    name = p5jax.tasks.register(data, out, epochs=3, seed=11, name="instruments")
    vocabulary = Vocabulary.load(out)
    config = FamilyConfig()
    families = make_families(Dataset.load(data), load_templates("amazon"), vocabulary, config)
    return name, families, vocabulary


@pytest.mark.check
def test_200_random_places_of_real_data(instruments):
    name, families, vocabulary = instruments
    assert set(families) == {"rating", "sequential", "explanation", "review", "direct"}
    pipeline = PipelineConfig(source_lengths=(512,), target_lengths=(16, 64))
    rng = np.random.default_rng(0)
    for (family_name, family), split in itertools.product(families.items(), SPLITS):
        task = seqio.TaskRegistry.get(f"{name}_{family_name}")
        total = task.num_input_examples(split)
        assert total == family.size(split) * (3 if split == "train" else 1)
        chosen = np.sort(rng.permutation(total)[:200])
        numbers = task.source.get_dataset(split, shuffle=False).enumerate()
        some = numbers.filter(lambda n, row, c=chosen: tf.reduce_any(n == c)).map(
            lambda n, row: row
        )
        rendered = task.preprocess_precache(some)
        lengths = {"inputs": 512, "targets": 64}
        rows = list(task.preprocess_postcache(rendered, lengths).as_numpy_iterator())
        assert [divmod(n, family.size(split)) for n in chosen.tolist()] == [
            (row["epoch"], row["index"]) for row in rows
        ]
        assert (
            check_rows(rows, chosen.tolist(), family, split, vocabulary, pipeline, seed=11) == 200
        )


@pytest.mark.check
def test_popularity_as_a_predictor_of_real_data(instruments):
    """Every user gets the ten most popular items; their hit rate is counted from the sequences."""
    name, families, vocabulary = instruments
    dataset = families["sequential"].source.dataset
    sequences = [dataset.sequence(user).tolist() for user in range(dataset.num_users)]
    counts = np.bincount([i for s in sequences for i in s[:-2]], minlength=dataset.num_items)
    popular = np.argsort(-counts, kind="stable")[:10].tolist()
    places = [popular.index(s[-1]) if s[-1] in popular else None for s in sequences]
    evaluator = seqio.Evaluator(
        f"{name}_sequential_2_3",
        seqio.EncDecFeatureConverter(pack=False),
        eval_split="test",
        sequence_length={"inputs": 512, "targets": 8},
    )
    decodes = [[*vocabulary.encode(dataset.item_ids[item]), 1] for item in popular]
    decodes = [ids + [0] * (8 - len(ids)) for ids in decodes]
    metrics, _ = evaluator.evaluate(
        compute_metrics=True,
        predict_fn=lambda rows, shapes=None: [(int(i), decodes) for i, _ in rows],
    )
    (found,) = metrics.result().values()
    assert found["item/n"] == 1_429
    assert found["item/real"] == 1
    for k in (1, 5, 10):
        hits = sum(place is not None and place < k for place in places)
        assert hits > 0
        assert found[f"item/HR@{k}"] == pytest.approx(hits / 1_429)
