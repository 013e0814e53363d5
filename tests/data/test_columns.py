"""Which columns of a table are taken for what."""

from __future__ import annotations

import pytest

from p5jax.data.readers.columns import item_columns, time_column


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("brand_name discount_price", {"brand": "brand_name", "price": "discount_price"}),
        ("discount_price price sale_price", {"price": "price"}),
        ("Title title", {"title": "title"}),
        ("name movie_title", {"title": "movie_title"}),
        ("artist_name productName", {"title": "artist_name"}),  # near ones in their order
        ("original_movie_title itemTitle", {"title": "itemTitle"}),
        ("sub_class class genre", {"categories": "genre"}),
        ("category_name price_class", {"categories": "category_name", "price": "price_class"}),
        ("release_year subtitle mytitle", {}),
        ("", {}),
    ],
)
def test_item_columns(names, chosen):
    assert item_columns(names.split()) == chosen


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("user_id time timestamp", "timestamp"),
        ("date ts", "ts"),
        ("unixReviewTime date", "unixReviewTime"),
        ("Event-Time", "Event-Time"),
        ("CREATED_AT", "CREATED_AT"),
        ("play_time watch_time release_date", None),
        ("", None),
    ],
)
def test_time_column(names, chosen):
    assert time_column(names.split()) == chosen
