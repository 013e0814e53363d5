"""The synthetic world: users with tastes, items in series, ratings and reviews, from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.formats import SyntheticOptions
from p5jax.data.readers.raw import RawData, RowCollector

SERIES_LENGTH = 5
FOLLOW = 0.85  # chance that the next item is the one that follows in the series
FIRST_DAY = 1_600_000_000  # seconds
DAY = 86_400

# category: (the nouns of its items, the features its reviews speak of)
CATEGORIES = {
    "Tea": (("Green Tea", "Black Tea", "Herb Tea"), ("aroma", "flavour", "strength", "tin")),
    "Lanterns": (
        ("Lantern", "Headlamp", "Desk Lamp"),
        ("brightness", "battery", "handle", "switch"),
    ),
    "Notebooks": (("Notebook", "Sketchbook", "Planner"), ("paper", "binding", "cover", "ruling")),
    "Backpacks": (("Backpack", "Daypack", "Satchel"), ("zipper", "padding", "pocket", "lining")),
    "Headphones": (("Headset", "Earphone", "Speaker"), ("bass", "cushion", "cable", "volume")),
    "Cookware": (("Saucepan", "Skillet", "Kettle"), ("coating", "lid", "grip", "weight")),
}
STYLES = ("Classic", "Compact", "Travel", "Deluxe", "Studio")
OPENINGS = (
    "Bo",
    "Da",
    "Fe",
    "Ga",
    "Hi",
    "Ju",
    "Ka",
    "Lo",
    "Mi",
    "Nu",
    "Pe",
    "Ri",
    "So",
    "Ta",
    "Ve",
    "Zo",
)
MIDDLES = ("ba", "do", "fi", "lu", "ma", "no", "ra", "se", "ti", "vo")
CLOSINGS = ("dale", "fax", "lin", "mere", "nor", "ppo", "quil", "rra", "ston", "ver")
FIRST_NAMES = (
    *("Ada", "Bruno", "Carla", "Dario", "Edda", "Felix", "Greta", "Hugo", "Ines", "Jonas"),
    *("Kira", "Lukas", "Mona", "Nils", "Olga", "Pavel", "Quinn", "Rosa", "Sven", "Tilda"),
    *("Uwe", "Vera", "Wanda", "Xenia", "Yara", "Zeno"),
)
OCCUPATIONS = ("teacher", "engineer", "artist", "guide", "musician", "cook")  # one per category
GENDERS = ("female", "male", "other")

# by mood: 0 for 1-2 stars, 1 for 3 stars, 2 for 4-5 stars
ADJECTIVES = (
    ("poor", "disappointing", "weak", "awful"),
    ("average", "acceptable", "ordinary", "decent"),
    ("great", "excellent", "lovely", "impressive"),
)
BEGINNINGS = (
    (
        "I had hoped for another {noun} .",
        "This {noun} let me down .",
        "I expected much more from {series} .",
    ),
    (
        "This {noun} does its job .",
        "I use this {noun} now and then .",
        "{series} is fine for the price .",
    ),
    (
        "This {noun} is what I had hoped for .",
        "{series} did it again .",
        "I use this {noun} every day .",
    ),
)
FEATURE_SENTENCES = (
    "The {feature} is {adjective} for something from {series} .",
    "What I noticed first is the {adjective} {feature} .",
    "To my mind the {feature} of {series} is {adjective} .",
    "After a month the {feature} is still {adjective} .",
)
ENDINGS = (
    ("I will send it back .", "Do not waste your money ."),
    ("Nothing more and nothing less .", "You may find a better one ."),
    ("I would buy it again .", "My friends want one too ."),
)
HEADLINES = (
    "{adjective} {feature}",
    "{feature} is {adjective}",
    "{adjective} {noun} , {adjective} {feature}",
)


@dataclass(frozen=True)
class _Items:
    """The catalogue, [I] each; follower is a permutation that walks through the series."""

    category: np.ndarray
    quality: np.ndarray
    feature: np.ndarray
    follower: np.ndarray
    series: list[str]
    noun: list[str]
    columns: dict[str, list[str | None]]


@dataclass(frozen=True)
class _Users:
    """The users, [U] each: two favourite categories, generosity, the feature they look at."""

    tastes: np.ndarray
    generosity: np.ndarray
    interest: np.ndarray
    columns: dict[str, list[str | None]]


def make(options: SyntheticOptions) -> RawData:
    """Make the world that the options of `p5jax.prepare` ask for."""
    return synthetic_raw(options.users, options.items, options.seed, options.events)


def synthetic_raw(
    users: int = 500, items: int = 200, seed: int = 0, events: tuple[int, int] = (5, 12)
) -> RawData:
    """Return a world of reviews that is the same for a seed on every platform.

    Items come in series; the next item is mostly the one that follows in the series, so sequences
    can be learned while popularity is nearly flat. Stars are 3 + generosity of the user + quality
    of the item + taste + a little noise. `events` bounds the number of reviews per user.
    Only uniform integers and floats and elementary arithmetic are used, which makes it portable.
    """
    categories = len(CATEGORIES)
    least = max(SERIES_LENGTH * categories, 2 * events[1])
    if users < 1 or items < least or not 1 <= events[0] <= events[1] or seed < 0:
        raise UserError(
            f"synthetic: found {users} users, {items} items, {events} events per user and "
            f"seed {seed}; expected at least 1 user, {least} items, 1 event and seed 0"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    catalogue = _make_items(rng, items)
    people = _make_users(rng, users)
    item_keys = [f"SYN{i + 1:05d}" for i in range(items)]
    # Every key has its index before the first event, so that columns and indices agree.
    rows = RowCollector((f"U{u + 1:05d}" for u in range(users)), item_keys)
    of_category = [np.flatnonzero(catalogue.category == c) for c in range(categories)]
    for u, user_key in enumerate(list(rows.users)):
        day = int(rng.integers(0, 1000))
        length = int(rng.integers(events[0], events[1], endpoint=True))
        for item in _walk(rng, people.tastes[u], catalogue, of_category, length):
            day += int(rng.integers(1, 30))
            stars = _stars(rng, people, catalogue, u, item)
            headline, text = _review(rng, catalogue, item, int(people.interest[u]), stars)
            time = FIRST_DAY + day * DAY + int(rng.integers(0, DAY))
            rows.add(user_key, item_keys[item], float(stars), time, headline, text)
    return rows.raw_data(
        name="synthetic",
        format="synthetic",
        user_columns=people.columns,
        item_columns=catalogue.columns,
        time_unit="second",
        understood={"source": "an invented world: reviews with 1 to 5 stars and times in seconds"},
    )


def _make_items(rng: np.random.Generator, items: int) -> _Items:
    positions = rng.permutation(items)  # the item at each position: indices carry no information
    series_of = np.empty(items, np.int64)
    series_of[positions] = np.arange(items) // SERIES_LENGTH
    number = np.empty(items, np.int64)
    number[positions] = np.arange(items) % SERIES_LENGTH
    count = int(series_of.max()) + 1
    names = _invent_names(rng, count + len(CATEGORIES) * 3)
    brands, names = names[count:], names[:count]
    category = series_of % len(CATEGORIES)
    follower = np.empty(items, np.int64)
    follower[positions] = _followers(category[positions], positions)
    series_quality = rng.random(count) * 3.0 - 1.5
    quality = series_quality[series_of] + rng.random(items) * 0.5 - 0.25
    series_feature = rng.integers(0, 4, count)
    feature = np.where(
        rng.random(items) < 0.8, series_feature[series_of], rng.integers(0, 4, items)
    )
    labels = list(CATEGORIES)
    nouns = [
        CATEGORIES[labels[s % len(labels)]][0][int(k)]
        for s, k in enumerate(rng.integers(0, 3, count))
    ]
    brand_of = rng.integers(0, 3, count)
    cents = rng.integers(500, 9000, items)
    columns: dict[str, list[str | None]] = {
        "title": [
            f"{names[s]} {nouns[s]} {STYLES[n]}" for s, n in zip(series_of, number, strict=True)
        ],
        "brand": [brands[s % len(labels) * 3 + brand_of[s]] for s in series_of],
        "categories": [labels[c] for c in category],
        "price": [f"{c // 100}.{c % 100:02d}" for c in cents],
    }
    return _Items(
        category,
        quality,
        feature,
        follower,
        [names[s] for s in series_of],
        [nouns[s].lower() for s in series_of],
        columns,
    )


def _followers(category_at: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the item that follows at each position: series by series, in a ring per category."""
    following = np.empty(len(positions), np.int64)
    for c in range(len(CATEGORIES)):
        ring = np.flatnonzero(category_at == c)
        following[ring] = positions[np.roll(ring, -1)]
    return following


def _make_users(rng: np.random.Generator, users: int) -> _Users:
    categories = len(CATEGORIES)
    occupation = rng.integers(0, categories, users)
    first = np.where(rng.random(users) < 0.8, occupation, rng.integers(0, categories, users))
    second = (first + rng.integers(1, categories, users)) % categories
    age = rng.integers(18, 75, users)
    # older users give more stars here, so profiles are informative about ratings
    generosity = (age - 46) / 40.0 + rng.random(users) - 0.5
    names = rng.permutation(len(FIRST_NAMES) * 26)[np.arange(users) % (len(FIRST_NAMES) * 26)]
    columns: dict[str, list[str | None]] = {
        "name": [
            f"{FIRST_NAMES[n // 26]} {chr(65 + n % 26)}. , {OCCUPATIONS[o]}"
            for n, o in zip(names, occupation, strict=True)
        ],
        "age": [str(a) for a in age],
        "gender": [GENDERS[g] for g in rng.integers(0, len(GENDERS), users)],
        "occupation": [OCCUPATIONS[o] for o in occupation],
    }
    return _Users(np.stack([first, second], 1), generosity, rng.integers(0, 4, users), columns)


def _invent_names(rng: np.random.Generator, count: int) -> list[str]:
    total = len(OPENINGS) * len(MIDDLES) * len(CLOSINGS)
    names = []
    for round_, code in enumerate(rng.permutation(total)[np.arange(count) % total]):
        a, b, c = (
            code % len(OPENINGS),
            code // len(OPENINGS) % len(MIDDLES),
            code // len(OPENINGS) // len(MIDDLES),
        )
        again = round_ // total
        names.append(OPENINGS[a] + MIDDLES[b] + CLOSINGS[c] + (str(again + 1) if again else ""))
    return names


def _walk(
    rng: np.random.Generator,
    tastes: np.ndarray,
    catalogue: _Items,
    of_category: list[np.ndarray],
    length: int,
) -> list[int]:
    """Return the distinct items of one user in order."""
    seen: list[int] = []
    while len(seen) < length:
        following = int(catalogue.follower[seen[-1]]) if seen else -1
        if not seen or following in seen or rng.random() >= FOLLOW:
            taste = rng.random()  # mostly the favourite category, sometimes any
            other = int(rng.integers(0, len(of_category)))
            pool = of_category[tastes[0] if taste < 0.65 else tastes[1] if taste < 0.9 else other]
            following = int(pool[rng.integers(0, len(pool))])
        if following not in seen:
            seen.append(following)
    return seen


def _stars(
    rng: np.random.Generator, people: _Users, catalogue: _Items, user: int, item: int
) -> int:
    taste = (0.3, 0.0)[int(catalogue.category[item] != people.tastes[user, 0])]
    noise = (rng.random() - 0.5) * 0.7
    score = 3.0 + people.generosity[user] + catalogue.quality[item] + taste + noise
    return int(min(5, max(1, np.floor(score + 0.5))))


def _review(
    rng: np.random.Generator, catalogue: _Items, item: int, interest: int, stars: int
) -> tuple[str, str]:
    """Return headline and text; 7 of 10 reviews speak of the item's feature first."""
    mood = (0, 0, 1, 2, 2)[stars - 1]
    features = list(CATEGORIES.values())[catalogue.category[item]][1]
    main, other = int(catalogue.feature[item]), interest
    if rng.random() >= 0.7:
        main, other = other, main

    def fill(patterns: tuple[str, ...], feature: int) -> str:
        adjectives = ADJECTIVES[mood]
        # the adjective mostly goes with the feature, so that it can be learned
        adjective = adjectives[
            feature if rng.random() < 0.7 else int(rng.integers(0, len(adjectives)))
        ]
        sentence = patterns[int(rng.integers(0, len(patterns)))].format(
            feature=features[feature],
            adjective=adjective,
            noun=catalogue.noun[item],
            series=catalogue.series[item],
        )
        return sentence.replace(" .", ".")

    headline = fill(HEADLINES, main).replace(" ,", ",").capitalize()
    parts = [fill(BEGINNINGS[mood], main), fill(FEATURE_SENTENCES, main)]
    if other != main and rng.random() < 0.5:
        parts.append(fill(FEATURE_SENTENCES, other))
    parts.append(fill(ENDINGS[mood], main))
    return headline, " ".join(parts)
