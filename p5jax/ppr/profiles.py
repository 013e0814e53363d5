"""User profiles: columns of the dataset's users table -> attribute codes.

Code 0 of an attribute is a missing value, or one that no fitting user has; 1, 2, … are the
categories, or the bins of a column of numbers. Categories and bins are fitted on the fitting users
only.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from p5jax.core.documents import read_json
from p5jax.core.errors import UserError, nearest, shown
from p5jax.core.files import replace_text
from p5jax.core.kinds import built, refuse_other
from p5jax.core.progress import Report, print_progress
from p5jax.core.settings import SIZE, at_least, check
from p5jax.data.dataset import COLUMNS, Dataset

Value = str | int | float | bool | None
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ProfileConfig:
    """Which columns make the profile; without names: all columns of few categories or of numbers.

    A column of numbers with more than `bins` different values is cut into `bins` bins of about
    equally many fitting users; any other may have at most `max_categories` values.
    """

    attributes: tuple[str, ...] = ()
    bins: int = 8
    max_categories: int = 50

    def __post_init__(self) -> None:
        check(self, bins=at_least(2), max_categories=SIZE)
        for name, times in Counter(self.attributes).items():
            if times > 1:
                raise UserError(f"ProfileConfig.attributes: found {name!r} {times} times")


@dataclass(frozen=True)
class Attribute:
    """One attribute: its categories in order or, for numbers, the lower ends of bins 2, 3, …"""

    name: str
    categories: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(low >= high for low, high in itertools.pairwise(self.edges)):
            raise UserError(f"edges: found {shown(self.edges)}, expected them ascending")
        if len(set(self.categories)) < len(self.categories) or (self.categories and self.edges):
            found = shown(self.categories)
            raise UserError(f"categories: found {found}, expected distinct ones, or edges")

    @property
    def size(self) -> int:
        """The number of codes, 0 included."""
        return 1 + (len(self.edges) + 1 if self.edges else len(self.categories))

    def codes(self, values: list[Value]) -> np.ndarray:
        """Return the codes of values, int32 [N]; numbers beyond the fitted range get an end bin."""
        if self.edges:
            numbers = [_number(value) for value in values]
            known = np.array([number is not None for number in numbers], bool)
            filled = np.array([number or 0.0 for number in numbers], np.float64)
            bins = 1 + np.searchsorted(self.edges, filled, side="right")
            return np.where(known, bins, 0).astype(np.int32)
        code_of = {category: code for code, category in enumerate(self.categories, 1)}
        return np.array([code_of.get(_text(value) or "", 0) for value in values], np.int32)


@dataclass(frozen=True)
class Profiles:
    """The attributes of U users.

    names: [M]; codes_UxM: int32, 0 missing or unknown; sizes: [M], the number of codes of each
    attribute, 0 included. A user without any profile is a row of zeros.
    """

    names: tuple[str, ...]
    codes_UxM: np.ndarray
    sizes: tuple[int, ...]

    def without(self, name: str) -> Profiles:
        """Return the profiles without one attribute; UserError when there is no such attribute."""
        dropped = self.index(name)
        return Profiles(
            self.names[:dropped] + self.names[dropped + 1 :],
            np.delete(self.codes_UxM, dropped, axis=1),
            self.sizes[:dropped] + self.sizes[dropped + 1 :],
        )

    def index(self, name: str) -> int:
        """Return an attribute's column; UserError naming similar names when there is none."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise UserError(f"profile attribute {name!r}: found {known}{nearest(name, self.names)}")
        return self.names.index(name)

    def replaced(self, share: float, rng: np.random.Generator) -> Profiles:
        """Return the profiles with noise.

        Each known value is replaced, with probability `share`, by another category of its
        attribute, sampled uniformly; missing values stay missing.
        """
        if not 0 <= share <= 1:
            raise UserError(f"share of replaced attributes: found {share}, expected 0 to 1")
        codes, categories = self.codes_UxM, np.array(self.sizes) - 1
        hit = (rng.random(codes.shape) < share) & (codes > 0) & (categories > 1)
        step = rng.integers(1, np.maximum(categories, 2), size=codes.shape)
        noisy = 1 + (codes - 1 + step) % np.maximum(categories, 1)
        return dataclasses.replace(self, codes_UxM=np.where(hit, noisy, codes).astype(np.int32))


class _Attribute(TypedDict):
    name: str
    categories: list[str]
    edges: list[float]


class _Document(TypedDict):
    format_version: int
    attributes: list[_Attribute]


@dataclass(frozen=True)
class ProfileSchema:
    """How values of the users table become codes; fitted once, then applied to any user."""

    attributes: tuple[Attribute, ...]

    def profiles(self, dataset: Dataset, report: Report = print_progress) -> Profiles:
        """Return the profiles of all users of a dataset.

        Values that are known but have no category become 0 and are reported, with their count.
        UserError when the users table lacks an attribute.
        """
        columns, unseen = [], []
        for attribute in self.attributes:
            values = _column(dataset, attribute.name)
            codes = attribute.codes(values)
            unknown = [v for v, code in zip(values, codes, strict=True) if not code and _text(v)]
            if unknown:
                unseen.append(f"{attribute.name}: {len(unknown)} users, e.g. {unknown[0]!r}")
            columns.append(codes)
        if unseen:
            report(
                f"profile values that no fitting user has, treated as unknown: {'; '.join(unseen)}"
            )
        codes_UxM = np.stack(columns, axis=1) if columns else np.zeros((dataset.num_users, 0))
        names = tuple(attribute.name for attribute in self.attributes)
        sizes = tuple(attribute.size for attribute in self.attributes)
        return Profiles(names, codes_UxM.astype(np.int32), sizes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schema as JSON, whole or not at all."""
        document = {
            "format_version": FORMAT_VERSION,
            "attributes": [dataclasses.asdict(attribute) for attribute in self.attributes],
        }
        replace_text(Path(path), json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def load(path: str | os.PathLike[str]) -> ProfileSchema:
        """Read what `save` wrote; UserError when it is absent or something else."""
        document = read_json(path, dict[str, object], "a profile schema")
        version = document.get("format_version")
        if version != FORMAT_VERSION:
            found = f"format version {shown(version)}"
            raise UserError(f"{path}: found {found}, expected {FORMAT_VERSION}, a profile schema's")
        refuse_other(path, document, _Document)
        return built(path, ProfileSchema, {"attributes": document["attributes"]})


def fit_profiles(dataset: Dataset, users: np.ndarray, config: ProfileConfig) -> ProfileSchema:
    """Fit the attributes' categories and bins on the training users, `users` [N], and no others.

    UserError for a named attribute that is absent, has too many categories or no known value, and
    when no column can be an attribute.
    """
    own = COLUMNS["users"].names
    available = [name for name in dataset.users.column_names if name not in own]
    fitted = []
    for name in config.attributes or available:
        if name not in available:
            found = ", ".join(available) or "no attributes"
            raise UserError(
                f"{dataset.path}: profile attribute {name!r} is not in the users table, which has "
                f"{found}{nearest(name, available)}"
            )
        values = _column(dataset, name)
        attribute = _fit(name, [values[user] for user in users.tolist()], config)
        problem = _problem(attribute, len(users), config)
        if config.attributes and problem:
            raise UserError(f"{dataset.path}: profile attribute {name!r}: {problem}")
        if not problem and (config.attributes or attribute.size > 2):  # one value says nothing
            fitted.append(attribute)
    if not fitted:
        found = ", ".join(available) or "no columns but its own"
        raise UserError(
            f"{dataset.path}: the users table has {found}; expected profile attributes of 2 to "
            f"{config.max_categories} categories, or numbers"
        )
    return ProfileSchema(tuple(fitted))


def _fit(name: str, values: list[Value], config: ProfileConfig) -> Attribute:
    texts = [text for value in values if (text := _text(value)) is not None]
    categories = sorted(set(texts))
    numbers = [number for text in texts if (number := _number(text)) is not None]
    if len(numbers) == len(texts) and len(set(numbers)) > config.bins:
        shares = np.arange(1, config.bins) / config.bins
        # Edges are users' values above the smallest, so that no bin is empty even where many users
        # share a value.
        distinct = np.unique(numbers)
        edges = np.quantile(numbers, shares, method="higher")
        return Attribute(name, edges=tuple(np.unique(np.maximum(edges, distinct[1])).tolist()))
    return Attribute(name, categories=tuple(categories))


def _problem(attribute: Attribute, users: int, config: ProfileConfig) -> str:
    """Why a fitted attribute cannot be used, or nothing."""
    if attribute.size == 1:
        return f"found no value for the {users} users that the categories are taken from"
    if len(attribute.categories) > config.max_categories:
        return (
            f"found {len(attribute.categories)} categories, e.g. {attribute.categories[0]!r}, "
            f"expected at most {config.max_categories} (ProfileConfig.max_categories), or numbers"
        )
    return ""


def _column(dataset: Dataset, name: str) -> list[Value]:
    if name not in dataset.users.column_names:
        raise UserError(f"{dataset.path}: profile attribute {name!r} is not in the users table")
    values: list[Value] = dataset.users[name].to_pylist()
    return values


def _text(value: Value) -> str | None:
    """A value as a category: text without blanks around it, None where missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).strip() or None


def _number(value: Value) -> float | None:
    try:
        number = float(_text(value) or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
