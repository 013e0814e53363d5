"""Which column of a table is meant by a field: the exact name, or else the usual or nearest one."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Names that mean the time of an interaction, as words without the signs between them.
TIMES = (
    *("timestamp", "unixtimestamp", "unixtime", "unixreviewtime", "eventtimestamp"),
    *("datetime", "eventtime", "reviewtime", "ratingtime", "interactiontime", "clicktime"),
    *("time", "ts", "date", "eventdate", "reviewdate", "createdat", "created", "dateadded"),
    *("lastwatchdt", "dateupdated"),
)
# Field of an interaction -> the names that mean it, written as those of TIMES, the surest first:
# what RecBole, RecTools, MovieLens, Amazon, Yelp, Steam, Goodreads and shops write.
FIELD_NAMES = {
    "user": (
        *("userid", "user", "uid", "reviewerid", "customerid", "customer", "memberid"),
        *("visitorid", "accountid", "clientid", "personid", "username"),
    ),
    "item": (
        *("itemid", "item", "iid", "movieid", "movie", "parentasin", "asin", "productid"),
        *("product", "businessid", "bookid", "songid", "trackid", "artistid", "articleid"),
        *("newsid", "gameid", "appid", "recipeid", "videoid", "sku", "isbn"),
    ),
    "rating": (
        *("rating", "ratings", "stars", "star", "starrating", "overall", "score"),
        *("userrating", "reviewrating", "reviewscore", "weight"),
    ),
    "timestamp": TIMES,
    "headline": ("headline", "reviewheadline", "reviewtitle", "summary"),
    "text": ("text", "reviewtext", "reviewbody", "reviewcontent", "review", "comment"),
}
# Dataset column -> the words that name it, the surest first.
ITEM_WORDS = {
    "title": ("title", "name"),
    "brand": ("brand", "manufacturer", "maker"),
    "categories": ("categories", "category", "genres", "genre", "class"),
    "price": ("price",),
}
_VAGUE = {"name", "class"}  # the brand_name is no title
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])|[^\W_]")


def words_of(name: str) -> list[str]:
    """Return the words of a column's name, in lower case: itemTitle and item_title are two."""
    return [word.lower() for word in _WORD.findall(name)]


def time_column(names: Sequence[str]) -> str | None:
    """Return the column that holds the times, None where no name means it."""
    return usual_column(names, TIMES)


def usual_column(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the column whose name, without the signs between its words, is first in `usual`."""
    meant = {"".join(words_of(name)): name for name in reversed(names)}
    return next((meant[each] for each in usual if each in meant), None)


def item_columns(names: Sequence[str]) -> dict[str, str]:
    """Return the source column of each dataset column that has one.

    An exact name comes first. Else it is the name that holds one of the column's words, with as
    few others as can be and no word of another column: brand_name is a brand and no title.
    """
    chosen = {}
    for column in ITEM_WORDS:
        near = {name: far for name in names if (far := _distance(name, column)) is not None}
        if near:
            chosen[column] = min(near, key=near.__getitem__)
    return chosen


def _distance(name: str, column: str) -> tuple[bool, bool, int, bool, int] | None:
    """How far a name is from a dataset column's; None where it means something else."""
    words, meant = words_of(name), ITEM_WORDS[column]
    others = {w for key, each in ITEM_WORDS.items() if key != column for w in each} - _VAGUE
    held = [word for word in meant if word in words]
    if not held or others.intersection(words):
        return None
    word = held[0]
    return name != column, word in _VAGUE, len(words), words[-1] != word, meant.index(word)
