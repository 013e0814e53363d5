"""SeqIO tasks against the native pipeline, example by example, and what is made of them."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gin import config as gin
from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.data.dataset import SPLITS, Dataset
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.samples import tokenise
from p5jax.prompts.families import FamilyConfig, example_rng, make_families
from p5jax.prompts.template_files import load_templates
from p5jax.text.vocabulary import Vocabulary

seqio = pytest.importorskip("seqio", reason="needs p5jax[seqio]")
import tensorflow as tf  # noqa: E402

import p5jax.tasks  # noqa: E402
from p5jax.tasks.source import NumberSource  # noqa: E402
from p5jax.tasks.vocabulary import SeqioVocabulary  # noqa: E402

CONFIG = FamilyConfig(sequential_per_user=3, direct_per_user=2, max_source=200, num_candidates=20)
LENGTHS = {"inputs": 200, "targets": 16}
PIPELINE = PipelineConfig(source_lengths=(200,), target_length=16)
EPOCHS, SEED = 2, 7
PASSED_ON = ("split", "epoch", "index", "prompt", "kind", "answer", "user", "item")


@pytest.fixture(scope="module")
def vocabulary_folder(world_vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "vocabulary"
    world_vocabulary.save(folder)
    return folder


@pytest.fixture(scope="module")
def small(world, vocabulary_folder):
    """The world's tasks, registered."""
    options = {"config": CONFIG, "epochs": EPOCHS, "seed": SEED, "name": "small"}
    return p5jax.tasks.register(world.path, vocabulary_folder, **options)


@pytest.fixture(scope="module")
def native(world, world_vocabulary):
    """The world's families, made without SeqIO."""
    return make_families(world, load_templates("amazon"), world_vocabulary, CONFIG)


def drawn(family, split, number, seed=SEED, prompt=None):
    """Element `number` of a split, as the native pipeline draws it."""
    epoch, index = divmod(number, family.size(split, prompt))
    return family.example(split, index, example_rng(seed, epoch, family.name, index), prompt)


def check_rows(rows, numbers, family, split, vocabulary, pipeline, prompt=None, seed=SEED):
    """Compare what SeqIO gave with the native tokens; return how many there were."""
    count = 0
    for row, number in itertools.zip_longest(rows, numbers):
        example = drawn(family, split, number, seed, prompt)
        tokens = tokenise(example, vocabulary, pipeline)
        assert row["inputs"].tolist() == tokens.source.tolist()
        assert row["targets"].tolist() == tokens.target.tolist()
        assert row["prompt"].decode() == example.prompt_id
        assert (row["user"], row["item"]) == (example.user, example.item)
        count += 1
    return count


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["rating", "sequential", "explanation", "review", "direct"])
def test_a_family_is_the_native_stream(small, native, world_vocabulary, name, split):
    task, family = seqio.get_mixture_or_task(f"{small}_{name}"), native[name]
    rows = task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator()
    size = family.size(split) * (EPOCHS if split == "train" else 1)
    assert task.num_input_examples(split) == size
    assert check_rows(rows, range(size), family, split, world_vocabulary, PIPELINE) == size


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
    pipeline = PipelineConfig(source_lengths=(512,), target_length=64)
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


def test_prompts_alone_and_the_unseen_ones(small, native, world_vocabulary):
    family = native["sequential"]
    for id in ("2-3", "2-11"):
        task = seqio.get_mixture_or_task(f"{small}_sequential_{id.replace('-', '_')}")
        for split in SPLITS:
            rows = itertools.islice(
                task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator(), 20
            )
            assert check_rows(rows, range(20), family, split, world_vocabulary, PIPELINE, id) == 20
    templates = load_templates("amazon").values()
    for name in native:
        unseen = [t.id for t in templates if t.family == name and not t.seen and not t.zero_shot]
        task = seqio.get_mixture_or_task(f"{small}_{name}_zeroshot")
        assert sorted(task.splits) == ["test", "validation"]
        rows = list(task.get_dataset(LENGTHS, "test", shuffle=False).as_numpy_iterator())
        asked = [row["prompt"].decode() for row in rows]
        assert asked == [id for id in unseen for _ in range(native[name].size("test", id))]
        place = 0
        for id in unseen:
            size = native[name].size("test", id)
            part = rows[place : place + size]
            check_rows(part, range(size), native[name], "test", world_vocabulary, PIPELINE, id)
            place += size
    assert "train" not in seqio.get_mixture_or_task(f"{small}_sequential_2_13").splits


def test_shards_part_the_stream_before_it_is_rendered(small, monkeypatch):
    task = seqio.get_mixture_or_task(f"{small}_review")
    total = task.num_input_examples("train")
    family = task.preprocessors[0].__self__.family
    rendered = []
    example = family.example

    def counted(*arguments):
        rendered.append(arguments)
        return example(*arguments)

    monkeypatch.setattr(family, "example", counted)
    found = []
    for shard in range(3):
        rows = task.get_dataset(
            LENGTHS, "train", shuffle=False, shard_info=seqio.ShardInfo(shard, 3)
        )
        found.append([(row["epoch"], row["index"]) for row in rows.as_numpy_iterator()])
    assert len(rendered) == total
    size = total // EPOCHS
    assert [[divmod(n, size) for n in range(shard, total, 3)] for shard in range(3)] == found


def test_shuffling_permutes_each_epoch_as_a_whole():
    source = NumberSource("any", {"train": 500, "test": 30}, epochs=3)

    def numbers(split="train", **options):
        rows = source.get_dataset(split, **options).as_numpy_iterator()
        return [(int(row["epoch"]), int(row["index"])) for row in rows]

    one, two = numbers(shuffle=True, seed=1), numbers(shuffle=True, seed=2)
    assert one == numbers(shuffle=True, seed=1)
    assert one != two
    assert [epoch for epoch, _ in one] == [n // 500 for n in range(1500)]
    orders = [[index for _, index in one[e * 500 :][:500]] for e in range(3)]
    assert all(sorted(order) == list(range(500)) for order in orders)
    assert orders[0] != orders[1]
    far = np.mean([abs(place - index) for place, index in enumerate(orders[0])])
    assert far > 100  # 167 in a uniform shuffle; a buffer would keep what is near near
    assert numbers(shuffle=True) != numbers(shuffle=True)
    shards = [numbers(shuffle=True, seed=1, shard_info=seqio.ShardInfo(i, 4)) for i in range(4)]
    assert sorted(itertools.chain(*shards)) == sorted(one)
    assert numbers("test", shuffle=False) == [(0, n) for n in range(30)]
    assert len(source.list_shards("train")) == 1
    assert len(NumberSource("any", {"train": 5000}, epochs=2).list_shards("train")) == 3


def test_lengths_cut_targets_before_their_end(small):
    task = seqio.get_mixture_or_task(f"{small}_explanation")
    lengths = {"inputs": 200, "targets": 5}
    rows = task.get_dataset(lengths, "test", shuffle=False).as_numpy_iterator()
    for row in rows:
        assert len(row["targets"]) <= 5
        assert row["targets"][-1] == 1


def test_mixture_rates(small, native):
    """20,000 draws; the declared rates are the families' training sizes."""
    mixture = seqio.MixtureRegistry.get(small)
    sizes = {name: family.size("train") for name, family in native.items()}
    for name, size in sizes.items():
        assert mixture.get_rate(seqio.TaskRegistry.get(f"{small}_{name}")) == size
    family_of = {id: template.family for id, template in load_templates("amazon").items()}
    # Rendering is not what is tested here: each task's first examples stand for the others.
    rows = {
        name: seqio.TaskRegistry.get(f"{small}_{name}")
        .get_dataset(LENGTHS, "train", shuffle=False)
        .take(1)
        .cache()
        .repeat()
        for name in sizes
    }
    rates = [mixture.get_rate(seqio.TaskRegistry.get(f"{small}_{name}")) for name in rows]
    stream = mixture._sample_fn(list(rows.values()), rates, 3).map(lambda row: row["prompt"])
    drawn = [family_of[p.decode()] for p in stream.take(20_000).as_numpy_iterator()]
    for name, size in sizes.items():
        share, rate = drawn.count(name) / 20_000, size / sum(sizes.values())
        assert abs(share - rate) < 0.02
        assert abs(share / rate - 1) < 4 * math.sqrt((1 - rate) / rate / 20_000)


def test_mixtures_and_their_stream(small, native):
    assert p5jax.tasks.find(small) is seqio.MixtureRegistry.get(small)
    tasks = {task.name for task in seqio.MixtureRegistry.get(f"{small}_without_direct").tasks}
    assert tasks == {f"{small}_{name}" for name in native if name != "direct"}
    dataset = seqio.get_dataset(
        small,
        LENGTHS,
        dataset_split="train",
        shuffle=False,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
    )
    batch = next(dataset.batch(8).as_numpy_iterator())
    assert batch["encoder_input_tokens"].shape == (8, 200)
    assert batch["decoder_target_tokens"].shape == (8, 16)
    assert (np.sort(batch["decoder_target_tokens"] == 1, axis=1)[:, -1]).all()


def test_registering_again(small, world, vocabulary_folder, tmp_path):
    again = {"config": CONFIG, "epochs": EPOCHS, "seed": SEED, "name": "small"}
    before = set(seqio.TaskRegistry.names())
    assert p5jax.tasks.register(world.path, str(vocabulary_folder), **again) == small == "p5_small"
    assert set(seqio.TaskRegistry.names()) == before
    for change in ({"seed": 8}, {"epochs": 3}, {"families": ["rating"]}, {"prompts": ("1-3",)}):
        with pytest.raises(UserError, match="p5_small.* is registered already"):
            p5jax.tasks.register(world.path, vocabulary_folder, **again | change)
    assert set(seqio.TaskRegistry.names()) == before


def test_registering_a_choice_of_prompts(world, vocabulary_folder):
    name = p5jax.tasks.register(
        world.path, vocabulary_folder, prompts=["2-3", "2-1", "2-13"], name="few"
    )
    tasks = {task for task in seqio.TaskRegistry.names() if task.startswith("p5_few")}
    suffixes = ("", "_zeroshot", "_2_1", "_2_3", "_2_13")
    assert tasks == {f"p5_few_sequential{suffix}" for suffix in suffixes}
    assert [t.name for t in seqio.MixtureRegistry.get(name).tasks] == ["p5_few_sequential"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dataset": "absent"}, "not a dataset folder"),
        ({"vocabulary": "absent.model"}, "expected a SentencePiece model"),
        ({"templates": "amazn"}, "did you mean amazon"),
        ({"prompts": ("2-31",)}, "2-31.*did you mean"),
        ({"families": ("ratings",)}, "found 'ratings'"),
        ({"epochs": 0}, "epochs: found 0"),
        ({"name": "a/b"}, "found 'a/b', expected letters"),
    ],
)
def test_wrong_arguments_are_one_line(world, vocabulary_folder, change, match):
    arguments = {"dataset": world.path, "vocabulary": vocabulary_folder, "name": "wrong"} | change
    with pytest.raises(UserError, match=match) as error:
        p5jax.tasks.register(**arguments)
    assert "\n" not in str(error.value)
    assert not [name for name in seqio.TaskRegistry.names() if name.startswith("p5_wrong")]


def test_id_tokens_must_be_in_the_vocabulary(tmp_path, vocabulary_folder):
    from p5jax.data.building import build_dataset
    from p5jax.data.readers.synthetic import synthetic_raw

    build_dataset(synthetic_raw(users=60, items=30, seed=0), tmp_path / "d", scheme="token", seed=0)
    with pytest.raises(UserError, match=r"found no <i0_0>, expected all 30 id tokens"):
        p5jax.tasks.register(tmp_path / "d", vocabulary_folder, name="tokens")
    # A SentencePiece file, on the other hand, gets them.
    model = vocabulary_folder / "sentencepiece.model"
    name = p5jax.tasks.register(tmp_path / "d", model, name="tokens")
    vocabulary = p5jax.tasks.vocabulary_of(name).vocabulary
    assert set(vocabulary.id_tokens) == {f"<i0_{n}>" for n in range(30)}


def test_a_run_folder_gives_its_own_tasks(world, tmp_path, native):
    from p5jax.models.t5 import T5Config
    from p5jax.runs.run import Run, RunConfig

    config = RunConfig(
        str(world.path), str(tmp_path / "run"), families=("rating", "review"), vocabulary_size=400
    )
    run = Run.create(config, CONFIG, T5Config(vocab_size=0))
    name = p5jax.tasks.register_run(tmp_path / "run", epochs=EPOCHS, seed=SEED, name="run")
    assert name == p5jax.tasks.register_run(tmp_path / "run", epochs=EPOCHS, seed=SEED, name="run")
    assert len(seqio.MixtureRegistry.get(name).tasks) == 2
    assert p5jax.tasks.vocabulary_of(name).vocabulary.fingerprint == run.vocabulary.fingerprint
    rows = seqio.TaskRegistry.get("p5_run_review").get_dataset(LENGTHS, "test", shuffle=False)
    family = run.families["review"]
    size = family.size("test")
    found = check_rows(
        rows.as_numpy_iterator(), range(size), family, "test", run.vocabulary, PIPELINE
    )
    assert found == size
    # The same vocabulary without a run.
    command = ["data", "vocabulary", str(world.path), "--size", "400"]
    assert main([*command, "--out", str(tmp_path / "v")]) == 0
    assert Vocabulary.load(tmp_path / "v").fingerprint == run.vocabulary.fingerprint
    # An unrelated folder is kept.
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert (tmp_path / "run" / "run.json").is_file()


ODD = [*" \t\n\x00\xa0\u200b\ufeff", "é", "e\u0301", "中", "😀", "ﬁ", "<", "<i0_", "<i0_3>", "~"]
TEXT = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from([*ODD, "<c0_1><c1_2>", "the", "item_12"]), max_size=12).map("".join),
)


@pytest.fixture(scope="module")
def adaptor(world_vocabulary):
    model = world_vocabulary.__reduce__()[1][0]
    return SeqioVocabulary(Vocabulary(model, ("<c0_1>", "<c1_2>", "<i0_3>")))


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_the_adaptor_gives_the_vocabularys_ids_and_texts(adaptor, text):
    plain = adaptor.vocabulary
    ids = plain.encode(text)
    assert list(adaptor.encode(text)) == ids
    assert adaptor.encode_tf(tf.constant(text.encode("utf-8", "replace"))).numpy().tolist() == (
        plain.encode(text.encode("utf-8", "replace").decode())
    )
    assert adaptor.decode(ids) == plain.decode(ids)
    noisy = [*ids, 1, 5, 6, plain.padded_size + 3]
    assert adaptor.decode(noisy) == plain.decode(ids)
    rows = tf.constant([noisy, [0] * len(noisy)], tf.int32)
    assert adaptor.decode_tf(rows).numpy().tolist() == [plain.decode(ids).encode(), b""]


def test_the_adaptors_sizes_and_equality(adaptor, world_vocabulary):
    plain = adaptor.vocabulary
    assert (adaptor.pad_id, adaptor.eos_id, adaptor.unk_id, adaptor.bos_id) == (0, 1, 2, None)
    assert adaptor.vocab_size == plain.padded_size == len(plain.word_starts)
    copy = pickle.loads(pickle.dumps(adaptor))
    assert copy == adaptor
    assert copy is not adaptor
    assert hash(copy) == hash(adaptor)
    assert SeqioVocabulary(world_vocabulary) != adaptor  # the same pieces, other id tokens
    assert adaptor != seqio.ByteVocabulary()
    assert adaptor.encode("") == []
    assert adaptor.decode_tf(tf.constant([0, 1, 7], tf.int32)).numpy() == b""
    assert adaptor.encode_tf(tf.constant("<c0_1><c1_2>")).numpy().tolist() == [
        plain.num_pieces + 100,
        plain.num_pieces + 101,
    ]


@gin.configurable
class Reader:
    """What a t5x gin file would give to its trainer and its model."""

    def __init__(self, mixture, vocabulary):
        self.mixture, self.vocabulary = mixture, vocabulary


@pytest.mark.parametrize("dynamic", [False, True])
def test_gin_files_name_tasks_and_vocabulary(world, vocabulary_folder, dynamic):
    head = "from __gin__ import dynamic_registration\n" if dynamic else ""
    text = f"""{head}
import p5jax.tasks
from p5jax.prompts import families
import test_tasks
MIXTURE_OR_TASK_NAME = @p5jax.tasks.register()
p5jax.tasks.register.dataset = '{world.path}'
p5jax.tasks.register.vocabulary = '{vocabulary_folder}'
p5jax.tasks.register.name = 'gin_{dynamic}'
p5jax.tasks.register.families = ['rating', 'direct']
p5jax.tasks.register.config = @FamilyConfig()
FamilyConfig.max_source = 300
p5jax.tasks.vocabulary_of.name = %MIXTURE_OR_TASK_NAME
test_tasks.Reader.mixture = %MIXTURE_OR_TASK_NAME
test_tasks.Reader.vocabulary = @p5jax.tasks.vocabulary_of()
"""
    if dynamic:
        text = text.replace("FamilyConfig", "families.FamilyConfig")
    try:
        gin.clear_config()
        gin.parse_config(text)
        read = Reader()
    finally:
        gin.clear_config()
    assert read.mixture == f"p5_gin_{dynamic}"
    assert {t.name for t in seqio.MixtureRegistry.get(read.mixture).tasks} == {
        f"p5_gin_{dynamic}_rating",
        f"p5_gin_{dynamic}_direct",
    }
    task = seqio.TaskRegistry.get(f"p5_gin_{dynamic}_direct")
    assert read.vocabulary == task.output_features["inputs"].vocabulary
    assert task.preprocessors[0].__self__.family.source.config.max_source == 300
