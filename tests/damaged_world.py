"""A small sound dataset as columns of lists, and each way in which it can be damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from p5jax.data.dataset import TEST, TRAIN, VALIDATION, Dataset
from p5jax.data.item_ids import IdSource, assign_item_ids
from p5jax.data.writing import write_dataset

USERS, ITEMS, SEED = 30, 25, 7


@dataclass
class Parts:
    """A dataset's tables as columns of Python lists, to be damaged before they are written."""

    tables: dict[str, dict[str, list]]
    item_ids: dict = field(default_factory=dict)
    protocol: dict = field(default_factory=dict)

    def row(self, table: str, index: int) -> dict:
        return {name: values[index] for name, values in self.tables[table].items()}

    def add(self, table: str, at: int | None = None, **row) -> None:
        for name, values in self.tables[table].items():
            values.insert(len(values) if at is None else at, row[name])

    def remove(self, table: str, index: int) -> None:
        for values in self.tables[table].values():
            del values[index]

    def find(self, table: str, split: int, skip: int = 0) -> int:
        return [i for i, s in enumerate(self.tables[table]["split"]) if s == split][skip]

    def write(self, folder) -> Dataset:
        types = {
            "user": pa.int32(),
            "item": pa.int32(),
            "rating": pa.float32(),
            "source_rating": pa.float32(),
            "timestamp": pa.int64(),
            "split": pa.int8(),
        }
        made = {
            name: pa.table({c: pa.array(v, types.get(c, pa.string())) for c, v in columns.items()})
            for name, columns in self.tables.items()
        }
        write_dataset(
            folder,
            name="test",
            format="test",
            sources=[],
            protocol=self.protocol,
            counts={},
            item_ids=self.item_ids,
            **made,
        )
        return Dataset.load(folder)


def sound(scheme: str = "sequential") -> Parts:
    """A world in which item numbers are the order of first appearance over whole sequences.

    So the `released` numbering is the leaky one of P5, and the other schemes must not follow it.
    """
    rng = np.random.default_rng(1)
    drawn = [rng.choice(ITEMS, rng.integers(4, 9), replace=False).tolist() for _ in range(USERS)]
    first = list(dict.fromkeys(item for sequence in drawn for item in sequence))
    number = {item: place for place, item in enumerate(first)}
    sequences = [[number[item] for item in sequence] for sequence in drawn]
    training = [np.array(sequence[:-2]) for sequence in sequences]
    numbers = [str(i + 1) for i in range(len(first))]
    ids = assign_item_ids(scheme, IdSource(training, len(first), SEED, numbers))
    columns = ("user", "item", "rating", "timestamp", "split")
    interactions: dict[str, list] = {name: [] for name in columns}
    extra = ("headline", "text", "feature", "sentence")
    reviews: dict[str, list] = {name: [] for name in columns + extra}
    for user, sequence in enumerate(sequences):
        for place, item in enumerate(sequence):
            split = {len(sequence) - 1: TEST, len(sequence) - 2: VALIDATION}.get(place, TRAIN)
            row = (user, item, float(1 + place % 5), 100 + place // 2, split)
            text = (f"head {user} {item}", f"text {user} {item}")
            said = ("case", f"the case of {item}") if item % 2 else (None, None)
            for table, values in ((interactions, row), (reviews, row + text + said)):
                for column, value in zip(table.values(), values, strict=True):
                    column.append(value)
    items = {"item": list(range(len(first))), "key": [f"I{i}" for i in range(len(first))]}
    items |= {name: [None] * len(first) for name in ("title", "brand", "categories", "price")}
    users = {"user": list(range(USERS)), "key": [f"U{u}" for u in range(USERS)]}
    tables = {
        "users": users | {"name": [None] * USERS},
        "items": items | {"item_id": ids},
        "interactions": interactions,
        "reviews": reviews,
    }
    return Parts(tables, {"scheme": scheme, "seed": SEED, "leaky": scheme == "released"})


def copy_test_pair_into_training_rows(parts: Parts) -> None:
    row = parts.row("interactions", parts.find("interactions", TEST))
    parts.add("interactions", at=0, **row | {"split": TRAIN, "timestamp": 0})


def duplicate_training_row(parts: Parts) -> None:
    parts.add("interactions", at=0, **parts.row("interactions", 0))


def mark_test_pair_as_training(parts: Parts) -> None:
    parts.tables["interactions"]["split"][parts.find("interactions", TEST, 3)] = TRAIN


def swap_validation_and_test(parts: Parts) -> None:
    split = parts.tables["interactions"]["split"]
    split[parts.find("interactions", TEST)] = 9
    split[parts.find("interactions", VALIDATION)] = TEST
    split[split.index(9)] = VALIDATION


def second_test_pair(parts: Parts) -> None:
    parts.tables["interactions"]["split"][parts.find("interactions", VALIDATION, 2)] = TEST


def hold_out_an_early_pair(parts: Parts) -> None:
    """A user's first and last interaction trade places in time."""
    parts.tables["interactions"]["timestamp"][0] = 10_000


def move_review_of_test_pair_to_training(parts: Parts) -> None:
    parts.tables["reviews"]["split"][parts.find("reviews", TEST)] = TRAIN


def copy_review_of_validation_pair_to_training(parts: Parts) -> None:
    row = parts.row("reviews", parts.find("reviews", VALIDATION))
    parts.add("reviews", **row | {"split": TRAIN})


def move_explanation_of_test_pair_to_training(parts: Parts) -> None:
    reviews = parts.tables["reviews"]
    held = [
        i
        for i, (split, sentence) in enumerate(
            zip(reviews["split"], reviews["sentence"], strict=True)
        )
        if split == TEST and sentence
    ]
    reviews["split"][held[0]] = TRAIN


def mark_review_of_test_pair_as_validation(parts: Parts) -> None:
    parts.tables["reviews"]["split"][parts.find("reviews", TEST)] = VALIDATION


def mark_training_review_as_test(parts: Parts) -> None:
    parts.tables["reviews"]["split"][parts.find("reviews", TRAIN)] = TEST


def duplicate_review(parts: Parts) -> None:
    parts.add("reviews", **parts.row("reviews", 0))


def review_without_interaction(parts: Parts) -> None:
    known = set(zip(parts.tables["reviews"]["user"], parts.tables["reviews"]["item"], strict=True))
    item = next(i for i in range(ITEMS) if (0, i) not in known)
    parts.add("reviews", **parts.row("reviews", 0) | {"item": item})


def item_beyond_the_catalogue(parts: Parts) -> None:
    parts.tables["interactions"]["item"][4] = ITEMS + 3


def user_beyond_the_table(parts: Parts) -> None:
    parts.tables["interactions"]["user"][-1] = USERS


def review_of_a_user_beyond_the_table(parts: Parts) -> None:
    parts.tables["reviews"]["user"][-1] = USERS


def unknown_split(parts: Parts) -> None:
    parts.tables["interactions"]["split"][0] = 3


def rows_out_of_user_order(parts: Parts) -> None:
    row = parts.row("interactions", 0)
    parts.remove("interactions", 0)
    parts.add("interactions", **row)


def user_with_two_events(parts: Parts) -> None:
    users = parts.tables["interactions"]["user"]
    for _ in range(users.count(0) - 2):
        parts.remove("interactions", 0)
        parts.remove("reviews", 0)


def same_user_under_two_numbers(parts: Parts) -> None:
    parts.tables["users"]["key"][3] = "U2"


def same_item_under_two_numbers(parts: Parts) -> None:
    parts.tables["items"]["key"][3] = "I2"


def same_id_twice(parts: Parts) -> None:
    parts.tables["items"]["item_id"][3] = parts.tables["items"]["item_id"][8]


def missing_id(parts: Parts) -> None:
    parts.tables["items"]["item_id"][3] = ""


def id_of_another_form(parts: Parts) -> None:
    parts.tables["items"]["item_id"][3] = "<i0_3>"


def released_ids_called_sequential(parts: Parts) -> None:
    parts.tables["items"]["item_id"] = [str(i + 1) for i in range(ITEMS)]


def two_ids_trade_places(parts: Parts) -> None:
    ids = parts.tables["items"]["item_id"]
    ids[3], ids[8] = ids[8], ids[3]


def forgotten_seed(parts: Parts) -> None:
    del parts.item_ids["seed"]


def unknown_scheme(parts: Parts) -> None:
    parts.item_ids["scheme"] = "alphabetical"


def leaky_flag_of_another_scheme(parts: Parts) -> None:
    parts.item_ids["leaky"] = True


# What finds it must say a line that matches the pattern.
DAMAGES: list[tuple[Callable[[Parts], None], str]] = [
    (copy_test_pair_into_training_rows, "1 held-out pairs are also training rows of interactions"),
    (duplicate_training_row, "1 pairs occur more than once in interactions"),
    (mark_test_pair_as_training, "1 users do not have exactly one test pair, .* has 0"),
    (swap_validation_and_test, "2 interactions have another split than leave-one-out"),
    (second_test_pair, "1 users do not have exactly one test pair, .* has 2"),
    (hold_out_an_early_pair, "1 interactions stand after a later one of the same user"),
    (move_review_of_test_pair_to_training, r"training rows of reviews \(review\)"),
    (copy_review_of_validation_pair_to_training, "held-out pairs of reviews are also training"),
    (move_explanation_of_test_pair_to_training, r"training rows of reviews \(explanation\)"),
    (mark_review_of_test_pair_as_validation, "reviews have another split than their interaction"),
    (mark_training_review_as_test, "1 held-out pairs of reviews are also training rows"),
    (duplicate_review, "1 pairs occur more than once in reviews"),
    (review_without_interaction, "1 pairs of reviews are no interaction"),
    (item_beyond_the_catalogue, "interactions: 1 rows whose item is not in 0 … 24, e.g. 28"),
    (user_beyond_the_table, "interactions: 1 rows whose user is not in 0 … 29"),
    (review_of_a_user_beyond_the_table, "reviews: 1 rows whose user is not in 0 … 29"),
    (unknown_split, "interactions: 1 rows whose split is not in 0 … 2, e.g. 3"),
    (rows_out_of_user_order, "rows do not stand user by user"),
    (user_with_two_events, "1 users have fewer than 3 interactions.* user U0 has 2"),
    (same_user_under_two_numbers, "users: 1 keys repeat, e.g. U2 2 times"),
    (same_item_under_two_numbers, "items: 1 keys repeat, e.g. I2 2 times"),
    (same_id_twice, "1 items share another's id, e.g. I3 and I8"),
    (missing_id, "I3 is '', expected a decimal number"),
    (id_of_another_form, "I3 is '<i0_3>', expected a decimal number"),
    (released_ids_called_sequential, "differ from sequential ids made from training interactions"),
    (two_ids_trade_places, "2 of 25 differ from sequential ids"),
    (forgotten_seed, "the manifest records no seed"),
    (unknown_scheme, "unknown scheme 'alphabetical'"),
    (leaky_flag_of_another_scheme, "marked leaky=True"),
]
