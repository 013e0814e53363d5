"""What prompts say about users and items: the placeholder texts of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from p5jax.data.dataset import Dataset
from p5jax.data.item_ids import ID_TOKEN

UNKNOWN_TITLE = "unknown title"
UNKNOWN = "unknown"


def prompt_text(text: str | None) -> str:
    """Return free text on one line, without anything that would be read as an item-id token."""
    if not text:
        return ""
    if "<" in text:
        text = ID_TOKEN.sub(lambda match: f"< {match[0][1:]}", text)
    return " ".join(text.split())


class Fields:
    """The user and item placeholders of a dataset, cleaned once.

    User U, where the dataset has U users, is a newcomer, who is called as the next user would be.
    triggers: each user's own trigger words, and a newcomer's, for prompts with {trigger}; most
    prompts have none.
    """

    def __init__(self, dataset: Dataset, triggers: Sequence[str] = ()):
        self.item_ids = dataset.item_ids
        self._triggers = triggers
        self._udesc = [
            prompt_text(name) or prompt_text(key) or f"user_{user + 1}"
            for user, (name, key) in enumerate(
                zip(dataset.user_names, dataset.user_keys, strict=True)
            )
        ]
        self._udesc.append(f"user_{dataset.num_users + 1}")
        self._titles = [prompt_text(title) or UNKNOWN_TITLE for title in dataset.titles]
        self._brands = [
            prompt_text(brand) or UNKNOWN for brand in dataset.items["brand"].to_pylist()
        ]
        self._prices = [
            prompt_text(price) or UNKNOWN for price in dataset.items["price"].to_pylist()
        ]

    def of_user(self, user: int) -> dict[str, Any]:
        """Return the placeholders that a user fills."""
        own = {"trigger": self._triggers[user]} if self._triggers else {}
        return {"uid": f"user_{user + 1}", "udesc": self._udesc[user], **own}

    def of(self, user: int, item: int) -> dict[str, Any]:
        """Return the placeholders that a user and an item fill."""
        item_id = self.item_ids[item]
        return self.of_user(user) | {
            "item": item_id,
            "iid": f"item_{item_id}",
            "title": self._titles[item],
            "brand": self._brands[item],
            "price": self._prices[item],
        }

    def history(self, items: np.ndarray, separator: str) -> dict[str, Any]:
        """Return the placeholders that a history fills; `items` are oldest first."""
        return {"hist": self.ids(items), "separator": separator}

    def ids(self, items: np.ndarray) -> list[str]:
        """Return the id texts of `items`."""
        item_ids = self.item_ids
        return [item_ids[item] for item in items.tolist()]
