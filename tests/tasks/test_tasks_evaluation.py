"""SeqIO's Evaluator with p5jax's metrics, on predictions whose scores are known by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from p5jax.prompts.families import FamilyConfig

pytestmark = pytest.mark.extras
seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")

import p5jax.tasks  # noqa: E402

LENGTHS = {"inputs": 200, "targets": 64}


@pytest.fixture(scope="module")
def judged(world, world_vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "vocabulary"
    world_vocabulary.save(folder)
    config = FamilyConfig(num_candidates=20, max_source=200)
    name = p5jax.tasks.register(world.path, folder, config=config, epochs=1, name="judged")

    def evaluate(task, predict, log_dir=None):
        """Return a task's metrics; `predict` gives a text, or a list, for (place, example)."""
        evaluator = seqio.Evaluator(
            f"{name}_{task}",
            seqio.EncDecFeatureConverter(pack=False),
            eval_split="test",
            sequence_length=LENGTHS,
            logger_cls=[seqio.JSONLogger] if log_dir else [],
            log_dir=log_dir,
        )
        (rows,) = evaluator.cached_task_datasets.values()
        examples = list(rows.as_numpy_iterator())
        said = [predict(place, example) for place, example in enumerate(examples)]

        def padded(text):
            ids = [*world_vocabulary.encode(text), 1]
            return ids + [0] * (64 - len(ids))

        def predict_fn(dataset, model_feature_shapes=None):
            order = np.random.default_rng(0).permutation(len(said)).tolist()
            return [
                (i, padded(said[i]) if isinstance(said[i], str) else [*map(padded, said[i])])
                for i in order
            ]

        metrics, _ = evaluator.evaluate(compute_metrics=True, step=1, predict_fn=predict_fn)
        (found,) = metrics.result().values()
        evaluator.close()
        return found, examples

    return evaluate


def test_ranking_from_one_decode(judged, world):
    def predict(place, example):
        item = int(example["item"])
        wrong = world.item_ids[item - 1 if item else 1]
        return [world.item_ids[item], wrong, "nothing", world.item_ids[item]][place % 4]

    found, examples = judged("sequential_2_3", predict)
    assert [int(e["item"]) for e in examples] == [world.target(u, "test") for u in range(120)]
    assert found["item/n"] == 120
    assert found["item/HR@1"] == pytest.approx(0.5)
    assert found["item/real"] == pytest.approx(0.75)
    assert "item/HR@5" not in found  # one decode says nothing about five
    wilson = binomtest(60, 120).proportion_ci(method="wilson")
    assert found["item/HR@1 high"] == pytest.approx(wilson.high)
    assert found["item/HR@1 low"] == pytest.approx(wilson.low)


def test_ranking_from_all_decodes(judged, world):
    def predict(place, example):
        true = int(example["item"])
        others = [world.item_ids[i] for i in range(20) if i != true]
        where = {0: 0, 1: 2, 2: 7}.get(place % 4)
        decodes = others[:10]
        decodes[9] = "no item"
        if where is not None:
            decodes[where] = world.item_ids[true]
        return decodes

    found, _ = judged("direct_5_5", predict)
    assert found["item/n"] == 120
    assert [found[f"item/HR@{k}"] for k in (1, 5, 10)] == pytest.approx([0.25, 0.5, 0.75])
    gains = [1, 1 / math.log2(4), 1 / math.log2(9)]
    assert found["item/NDCG@5"] == pytest.approx(sum(gains[:2]) / 4)
    assert found["item/NDCG@10"] == pytest.approx(sum(gains) / 4)
    assert found["item/real"] == pytest.approx(0.9)


def test_stars_as_numbers_and_not(judged, world):
    rows = [r for r in world.interactions.to_pylist() if r["split"] == 2]
    training = [r["rating"] for r in world.interactions.to_pylist() if r["split"] == 0]
    answers = np.array([r["rating"] for r in rows])
    mean = np.mean([int(r + 0.5) for r in training if r is not None])

    found, examples = judged("rating_1_6", lambda place, e: "good" if place % 10 == 0 else "3.0")
    assert [(int(e["user"]), int(e["item"])) for e in examples] == [
        (r["user"], r["item"]) for r in rows
    ]
    said = np.where(np.arange(len(rows)) % 10 == 0, mean, 3.0)
    error = said - np.floor(answers + 0.5)
    assert found["rating/n"] == len(rows)
    assert found["rating/RMSE"] == pytest.approx(math.sqrt(np.mean(error**2)))
    assert found["rating/MAE"] == pytest.approx(np.mean(np.abs(error)))
    assert found["rating/unparsable"] == pytest.approx(0.1)
    assert found["rating/RMSE low"] < found["rating/RMSE"] < found["rating/RMSE high"]


def test_words_and_a_mixed_task(judged, tmp_path):
    def predict(place, example):
        if example["kind"] == b"choice":
            return "yes"
        return "4" if example["kind"] == b"rating" else "?"

    found, examples = judged("rating", predict, log_dir=str(tmp_path))
    asked = [e["answer"].decode() for e in examples if e["kind"] == b"choice"]
    stars = [float(e["answer"]) for e in examples if e["kind"] == b"rating"]
    assert len(asked) > 10
    assert len(stars) > 10
    assert found["choice/n"] == len(asked)
    assert found["choice/accuracy"] == pytest.approx(asked.count("yes") / len(asked))
    assert found["rating/n"] == len(stars)
    assert found["rating/MAE"] == pytest.approx(np.mean([abs(4 - s) for s in stars]))
    (written,) = [json.loads(line) for line in (tmp_path / "p5_judged_rating-metrics.jsonl").open()]
    assert written["choice/accuracy"] == pytest.approx(found["choice/accuracy"])


def test_sentences(judged):
    """Saying the reference scores 100, with whatever rating before it where one is asked for."""
    for task in ("explanation_3_3", "review_4_1"):
        found, examples = judged(task, lambda place, e: e["answer"].decode())
        assert found["text/n"] == len(examples)
        assert found["text/BLEU-4"] == pytest.approx(100)
        assert found["text/ROUGE-L"] == pytest.approx(100)
    found, examples = judged("explanation_3_7", lambda p, e: "2.4 , " + e["answer"].decode())
    assert all(e["targets_pretokenized"].endswith(b" , " + e["answer"]) for e in examples)
    assert found["text/BLEU-4"] == pytest.approx(100)
    found, _ = judged("explanation_3_3", lambda p, e: "2.4 , " + e["answer"].decode())
    assert found["text/BLEU-4"] < 100  # nobody asked for stars here


def test_direct_yes_is_a_recall(judged):
    found, examples = judged("direct_5_1", lambda place, e: "yes" if place % 3 else "no")
    assert {e["answer"] for e in examples} == {b"yes"}
    assert found["yes_no/recall"] == pytest.approx(2 / 3)
    assert "yes_no/accuracy" not in found


def test_one_example_has_no_interval_that_is_not_a_number(world):
    """NaN is no JSON, and one example says nothing about a spread."""
    from p5jax.tasks import metrics

    said = {"rating": ("4", "5"), "text": ("a b", "a b c"), "catalogue": ("x", "y")}
    said |= {"choice": ("yes", "no"), "yes_no": ("yes", "yes")}
    judges = (metrics.stars, metrics.sentences, metrics.items, metrics.choices)
    for judge in (*judges, metrics.held_out_yes):
        for kind, (answer, text) in said.items():
            found = judge(world)([{"kind": kind, "answer": answer}], [text])
            assert json.loads(json.dumps(found, allow_nan=False)) == found
            assert found.get(f"{kind}/n", 1) == 1
    assert metrics.stars(world)([{"kind": "rating", "answer": "4"}], ["5"])["rating/RMSE"] == 1
