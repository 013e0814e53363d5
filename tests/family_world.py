"""A dataset with gaps in every optional column, and a reader of rendered prompts."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from p5jax.data.dataset import Dataset
from p5jax.data.writing import write_dataset
from p5jax.prompts.families import example_rng
from p5jax.prompts.fields import prompt_text
from p5jax.prompts.template_files import load_templates

AMAZON = load_templates("amazon")
USERS, ITEMS = 40, 160


class Thirds:
    """A vocabulary of one piece per started three letters of a word."""

    def encode(self, text: str) -> list[int]:
        return [7] * sum(-(-len(word) // 3) for word in text.split())


def write_world(path, *, ratings=True, texts=True, sentences=True, seed=0):
    """Write a dataset with everything a real one has: gaps in every optional column, too."""
    rng = np.random.default_rng(seed)
    interactions, reviews = [], []
    for user in range(USERS):
        count = int(rng.integers(3, 9)) if user else 60
        for place, item in enumerate(rng.permutation(ITEMS)[:count].tolist()):
            split = {1: 2, 2: 1}.get(count - place, 0)
            rating = float(rng.integers(1, 6)) if ratings and rng.random() < 0.9 else None
            row = {
                "user": user,
                "item": item,
                "rating": rating,
                "timestamp": place,
                "split": split,
            }
            interactions.append(row)
            if texts and rng.random() < 0.8:
                sentence = sentences and rng.random() < 0.7
                reviews.append(
                    row
                    | {
                        "headline": f"head {user} {item}" if rng.random() < 0.7 else None,
                        "text": f"body {user} {item} " + "so long " * int(rng.integers(60))
                        if rng.random() < 0.9
                        else None,
                        "feature": "sound" if sentence and rng.random() < 0.8 else None,
                        "sentence": f"why {user} {item} ." if sentence else None,
                    }
                )
    types = {"user": pa.int32(), "item": pa.int32(), "rating": pa.float32()}
    types |= {"timestamp": pa.int64(), "split": pa.int8()}
    review_types = types | dict.fromkeys(["headline", "text", "feature", "sentence"], pa.string())
    gap = [None, " "]
    titles = [f"thing {item} <c0_{item}>" if item % 7 else gap[item % 2] for item in range(ITEMS)]
    users = {
        "user": np.arange(USERS, dtype=np.int32),
        "key": [f"A{user}" for user in range(USERS)],
        "name": pa.array([f"Name {u}" if u % 3 else None for u in range(USERS)], pa.string()),
    }
    items = {
        "item": np.arange(ITEMS, dtype=np.int32),
        "key": [f"B{item}" for item in range(ITEMS)],
        "title": titles,
        "brand": pa.array([f"brand {i}" if i % 2 else None for i in range(ITEMS)], pa.string()),
        "categories": pa.nulls(ITEMS, pa.string()),
        "price": pa.array([f"{i}.50" if i % 2 else None for i in range(ITEMS)], pa.string()),
        "item_id": [str(1000 + 7 * item) for item in range(ITEMS)],
    }
    write_dataset(
        path,
        name="gaps",
        format="test",
        sources=[],
        protocol={},
        counts={},
        users=pa.table(users),
        items=pa.table(items),
        interactions=pa.Table.from_pylist(interactions, schema=pa.schema(list(types.items()))),
        reviews=pa.Table.from_pylist(reviews, schema=pa.schema(list(review_types.items()))),
        item_ids={"scheme": "random", "seed": 0, "leaky": False},
    )
    return Dataset.load(path)


def epoch(family, number=0, seed=0, count=None):
    """All examples of one training epoch, or of its first `count`."""
    for index in range(count or family.size("train")):
        yield family.example("train", index, example_rng(seed, number, family.name, index))


def parse(template, inputs):
    """Recover the placeholders of a rendered prompt from its wording alone."""
    pattern = re.escape(template.inputs)
    for name in template.fields:
        pattern = pattern.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>.*)")
    match = re.fullmatch(pattern, inputs, re.DOTALL)
    assert match, (template.id, inputs)
    return match.groupdict()


class Reading:
    """What a rendered prompt says, resolved back to users and items through the dataset."""

    def __init__(self, dataset, template, example):
        said = parse(template, example.inputs)
        self.users = set(range(dataset.num_users))
        if "uid" in said:
            self.users = {int(said["uid"].removeprefix("user_")) - 1}
        elif "udesc" in said:
            self.users = {
                u for u, n in enumerate(dataset.user_names) if prompt_text(n) == said["udesc"]
            }
        by_id = {text: item for item, text in enumerate(dataset.item_ids)}
        self.history = (
            [by_id[i] for i in re.split(" , | -> ", said["hist"])] if "hist" in said else []
        )
        self.candidates = [by_id[i] for i in said["cand"].split(" , ")] if "cand" in said else []
        self.items = set(range(dataset.num_items))
        if "item" in template.target_fields:
            self.items = {by_id[example.targets]}
        elif "item" in said:
            self.items = {by_id[said["item"]]}
        elif "iid" in said:
            self.items = {by_id[said["iid"].removeprefix("item_")]}
        elif "title" in said:
            titles = [prompt_text(title) or "unknown title" for title in dataset.titles]
            self.items = {item for item, title in enumerate(titles) if title == said["title"]}
        self.negative = template.family in ("sequential", "direct") and example.targets == "no"
