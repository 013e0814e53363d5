"""Rating scales: stated or recognised from training ratings, and the stars they become."""

from __future__ import annotations

import numpy as np
import pytest

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.data.dataset import TEST, TRAIN, Dataset
from p5jax.data.prepare import prepare
from p5jax.data.ratings import RatingOptions, RatingScale, fit_ratings, recognised

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
USERS, EVENTS = 16, 8
# In a thousand ratings of MovieLens: few of half a star, and only three times as many of one.
MOVIES = np.repeat([0.5, 1, 1.5, 2, 3, 4, 5], [11, 34, 14, 71, 215, 400, 255])


def of_steps(low: float, high: float, step: float, each: int = 12) -> np.ndarray:
    return np.repeat(np.arange(low, high + step / 2, step), each)


@pytest.mark.parametrize(
    ("ratings", "scale"),
    [
        (of_steps(1, 5, 1), (1, 5)),
        (of_steps(1, 5, 0.5), (0.5, 5)),
        (np.r_[of_steps(1, 5, 0.5), 0.5], (0.5, 5)),
        (np.r_[of_steps(0.5, 5, 0.5), 0], (0.5, 5)),
        (np.r_[of_steps(1, 5, 1), 1.5], (1, 5)),
        (np.r_[of_steps(1, 5, 1), 0, 0], (1, 5)),
        (of_steps(2, 4, 1), (1, 5)),
        (of_steps(0.5, 5, 0.5), (0.5, 5)),
        (of_steps(0, 5, 1), (0, 5)),
        (of_steps(1, 10, 1), (1, 10)),
        (of_steps(0, 10, 1), (0, 10)),
        (of_steps(0, 100, 5), (0, 100)),
        (of_steps(-10, 10, 0.25), (-10, 10)),
        (of_steps(0, 1, 1), (0, 1)),
        (of_steps(-1, 1, 2), (-1, 1)),
        (np.round(np.linspace(6.1, 9.9, 77), 1), (1, 10)),
        (np.r_[of_steps(1, 5, 1), 0], (1, 5)),
        (np.r_[of_steps(1, 5, 1, 60), 55, 99, -1], (1, 5)),
        (np.r_[of_steps(1, 10, 1), 0], (1, 10)),
        (of_steps(1, 7, 1), (1, 7)),
        (np.r_[of_steps(1, 10, 1), np.full(30, -1)], (1, 10)),  # -1: watched and not rated
        (np.r_[of_steps(1, 5, 1), np.full(90, -1)], (1, 5)),
        (MOVIES, (0.5, 5)),
        (np.random.default_rng(0).lognormal(2, 1.5, 500).round(1), None),  # hours played
        (np.random.default_rng(0).geometric(0.03, 500), None),  # times listened to
        (np.random.default_rng(0).uniform(0, 0.2, 500), None),  # shares clicked on
    ],
)
def test_scales_are_recognised_and_strays_do_not_matter(ratings, scale):
    found = recognised(np.asarray(ratings, np.float32))
    assert (found and (found.low, found.high)) == scale


@pytest.mark.parametrize(
    ("scale", "ratings", "stars"),
    [
        ((1, 5), [1, 1.5, 2.4, 2.5, 5, np.nan], [1, 2, 2, 3, 5, np.nan]),
        ((0.5, 5), [0.5, 1, 1.5, 3, 5], [1, 1, 2, 3, 5]),
        ((0, 10), [0, 1, 2.5, 5, 8, 10, 11, -3], [1, 1, 2, 3, 4, 5, np.nan, np.nan]),
        ((0, 100), [0, 49, 100], [1, 3, 5]),
        ((-1, 1), [-1, 0, 1], [1, 3, 5]),
    ],
)
def test_stars_are_linear_and_whole_and_there_are_none_outside(scale, ratings, stars):
    found = RatingScale(*scale).stars(np.array(ratings, np.float32))
    np.testing.assert_array_equal(found, stars)


def understood(ratings: np.ndarray) -> str:
    return fit_ratings(ratings, np.ones(len(ratings), bool), RatingOptions()).understood


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        (of_steps(0, 4, 1), "2 and 3 are both 3, and training ratings reach from 0 to 4: --rating"),
        (of_steps(1, 6, 1), "2 and 3 are both 2, and training ratings reach from 1 to 6: --rating"),
        (of_steps(1, 5, 0.5), "1.5 and 2 are both 2, and training ratings reach from 1 to 5: "),
        (of_steps(2, 10, 1), "3 and 4 are both 2, and training ratings reach from 2 to 10: "),
    ],
)
def test_ratings_that_another_scale_would_tell_apart_are_a_warning(ratings, said):
    assert understood(ratings).startswith("warning: ")
    assert said in understood(ratings)
    assert "--rating-scale LOW HIGH" in understood(ratings)


@pytest.mark.parametrize(
    "ratings",
    [
        of_steps(1, 5, 1),
        of_steps(2, 4, 1),
        of_steps(0, 5, 1),
        of_steps(0.5, 5, 0.5),
        of_steps(1, 10, 1),
        of_steps(1, 7, 1),
        of_steps(0, 2, 1),  # 1, 2 and 3 stars
        np.r_[of_steps(1, 5, 1, 60), 0, 99],
    ],
)
def test_a_scale_that_is_reached_or_tells_all_ratings_apart_is_no_warning(ratings):
    assert not understood(ratings).startswith("warning: ")


def test_the_stars_of_few_ratings_are_all_told():
    assert understood(of_steps(0, 2, 1)).endswith("stars: 0 -> 1, 1 -> 2, 2 -> 3, 5 -> 5")


def test_interactions_without_a_rating_are_told():
    ratings = np.r_[of_steps(1, 5, 1), np.full(7, np.nan)]
    found = fit_ratings(ratings, np.ones(len(ratings), bool), RatingOptions())
    assert found.told(ratings, 0).endswith("; 7 of 67 have none")
    assert "have none" not in found.told(ratings[:60], 0)
    none = fit_ratings(ratings[60:], np.ones(7, bool), RatingOptions())
    assert "of 7" not in none.told(ratings[60:], 0)


def test_held_out_ratings_decide_nothing():
    training = np.arange(100) % 4 > 0
    for ratings in (of_steps(1, 5, 1, 20), np.full(100, 3.0), np.full(100, np.nan)):
        alone = fit_ratings(ratings, training, RatingOptions())
        for held_out in (0, 10, 1e6, np.nan, np.arange(25)):
            other = ratings.copy()
            other[~training] = held_out
            assert fit_ratings(other, training, RatingOptions()) == alone


def rating_at(user: int, event: int) -> float:
    return 1 + (user + event) % 5


def line_of(user: int, event: int, rating=rating_at) -> tuple[str, float, int]:
    """The item, the rating and the time of a user's event."""
    when = 1_600_000_000 + 10 * user + 1000 * event
    return f"i{(3 * user + event) % 24}", rating(user, event), when


def written(folder, rating=rating_at) -> list[str]:
    """A RecBole file of USERS with EVENTS each, the last two held out; the words that read it."""
    folder.mkdir(exist_ok=True)
    lines = [
        f"u{u}\t%s\t%g\t%d" % line_of(u, e, rating) for u in range(USERS) for e in range(EVENTS)
    ]
    (folder / f"{folder.name}.inter").write_text(HEADER + "\n".join(lines) + "\n")
    return ["data", "prepare", "recbole", "--folder", str(folder), "--k-core", "3"]


def made(folder, rating=rating_at, **options) -> Dataset:
    written(folder, rating)
    return prepare("recbole", folder / "d", folder=folder, k_core=3, **options)


def stars_by_pair(dataset: Dataset) -> dict[tuple[str, str], tuple[float | None, int]]:
    return {
        (dataset.user_keys[row["user"]], dataset.item_keys[row["item"]]): (
            row["rating"],
            row["split"],
        )
        for row in dataset.interactions.to_pylist()
    }


def test_one_held_out_rating_leaves_every_training_row_as_it_is(tmp_path):
    def one_is_ten(user: int, event: int) -> float:
        return 10 if (user, event) == (5, EVENTS - 1) else rating_at(user, event)

    before, after = made(tmp_path / "a"), made(tmp_path / "b", one_is_ten)
    was, now = stars_by_pair(before), stars_by_pair(after)
    differing = {pair for pair in was if was[pair] != now[pair]}
    assert [now[pair] for pair in differing] == [(None, TEST)]
    for name in ("users", "items"):
        assert getattr(before, name).equals(getattr(after, name))
    assert "held-out ratings outside count as none (1)" in after.manifest["understood"]["ratings"]


def test_how_many_of_the_kept_interactions_have_no_rating_is_told(tmp_path):
    def some(user: int, event: int) -> float:
        return rating_at(user, event) if event else float("nan")

    said = made(tmp_path / "a", some).manifest["understood"]["ratings"]
    assert said.endswith("; 16 of 128 have none")


def test_other_held_out_rows_prepared_again_leave_every_training_row_as_it_is(tmp_path):
    """Every held-out rating, item and time is another one; no user or item is gained or lost."""

    def another(user: int, event: int) -> tuple[str, float, int]:
        place = line_of(user, event)
        if event < EVENTS - 2:
            return place
        return line_of(user + 4, event)[0], 10.0 - event % 2, place[2] + 400 * event

    written(tmp_path / "a")
    before = made(tmp_path / "a")
    lines = [f"u{u}\t%s\t%g\t%d" % another(u, e) for u in range(USERS) for e in range(EVENTS)]
    (tmp_path / "a" / "a.inter").write_text(HEADER + "\n".join(lines) + "\n")
    after = prepare("recbole", tmp_path / "e", folder=tmp_path / "a", k_core=3)
    assert training_rows(after) == training_rows(before)
    assert len(training_rows(before)) == USERS * (EVENTS - 2)
    assert ids_by_key(after) == ids_by_key(before)
    assert after.user_keys == before.user_keys
    said = "held-out ratings outside count as none (32)"
    assert said in after.manifest["understood"]["ratings"]


def training_rows(dataset: Dataset) -> list[tuple]:
    rows = dataset.interactions.to_pylist()
    return sorted(
        (
            dataset.user_keys[row["user"]],
            dataset.item_keys[row["item"]],
            row["rating"],
            row["timestamp"],
        )
        for row in rows
        if row["split"] == TRAIN
    )


def ids_by_key(dataset: Dataset) -> dict[str, str]:
    return dict(zip(dataset.item_keys, dataset.item_ids, strict=True))


def test_a_stray_rating_is_a_line_to_skip_and_moves_no_star(tmp_path, capsys):
    def stray(user: int, event: int) -> float:
        return 0 if (user, event) == (0, 3) else rating_at(user, event)

    words = [*written(tmp_path / "s", stray), "--out", str(tmp_path / "d")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 's' / 's.inter'}:5: found a rating of 0, expected 1 to 5" in error
    assert not (tmp_path / "d").exists()
    assert main([*words, "--skip-bad-lines"]) == 0
    skipped = Dataset.load(tmp_path / "d")
    assert skipped.manifest["counts"]["skipped_lines"] == 1
    whole = stars_by_pair(made(tmp_path / "w"))
    kept = stars_by_pair(skipped)
    assert set(whole) - set(kept) == {("u0", "i3")}
    assert all(kept[pair][0] == whole[pair][0] for pair in kept)
    assert main([*words, "--rating-scale", "0", "5"]) == 0
    stated = stars_by_pair(Dataset.load(tmp_path / "d"))
    # 0 to 5 in five steps: 1.8, 2.6, 3.4, 4.2 and 5 stars
    assert {whole[pair][0]: stated[pair][0] for pair in stated if pair != ("u0", "i3")} == {
        1: 2, 2: 3, 3: 3, 4: 4, 5: 5
    }  # fmt: skip
    assert stated["u0", "i3"] == (1, TRAIN)


def test_a_stated_scale_holds_for_every_line(tmp_path, capsys):
    words = [*written(tmp_path / "s"), "--out", str(tmp_path / "d")]
    assert main([*words, "--rating-scale", "1", "4"]) == 2
    assert "s.inter:6: found a rating of 5, expected 1 to 4;" in capsys.readouterr().err
    assert main([*words, "--rating-scale", "1", "4", "--skip-bad-lines"]) == 0
    fives = sum(rating_at(u, e) == 5 for u in range(USERS) for e in range(EVENTS))
    assert Dataset.load(tmp_path / "d").manifest["counts"]["skipped_lines"] == fives


@pytest.mark.parametrize(
    "options",
    [
        {"rating_scale": (5, 1)},
        {"rating_scale": (1, 1)},
        {"rating_scale": (1,)},
        {"rating_scale": (0, float("nan"))},
        {"rating_scale": "15"},
        {"rating_scale": 5},
        {"min_rating": float("nan")},
        {"min_rating": "3"},
        {"min_rating": [3]},
    ],
)
def test_impossible_scales_are_refused(tmp_path, options):
    with pytest.raises(UserError, match=r"(rating_scale|min_rating): found .*, expected "):
        made(tmp_path / "s", **options)


@pytest.mark.parametrize("event", [2, EVENTS - 1])
def test_a_rating_beyond_single_precision_is_a_line_to_skip(tmp_path, event):
    def huge(user: int, number: int) -> float:
        return 1e39 if (user, number) == (0, event) else rating_at(user, number)

    with pytest.raises(UserError, match=rf"s.inter:{event + 2}: found a rating of inf, expected "):
        made(tmp_path / "s", huge)
    skipped = made(tmp_path / "s", huge, skip_bad_lines=True)
    assert skipped.manifest["protocol"]["ratings"]["scale"] == [1, 5]


def playtime(user: int, event: int) -> float:
    return round(0.1 * 1.9 ** ((user * 7 + event * 5) % 12), 1)


@pytest.mark.parametrize(
    ("rating", "said"),
    [
        (lambda user, event: 1.0, "all 96 training ratings are 1 and say nothing"),
        (playtime, "0.1 to 116.5, half of them up to"),
    ],
)
def test_what_is_no_rating_is_not_learned_and_said(tmp_path, capsys, rating, said):
    assert main([*written(tmp_path / "s", rating), "--out", str(tmp_path / "d")]) == 0
    line = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("ratings ")
    )
    assert "warning: " in line
    assert said in line
    assert "no prompt asks for stars" in line
    dataset = Dataset.load(tmp_path / "d")
    assert dataset.interactions["rating"].null_count == USERS * EVENTS
    assert dataset.families == ("sequential", "direct")
    # the user knows better
    assert main([*written(tmp_path / "s", rating), "--out", str(tmp_path / "d")]
                + ["--rating-scale", "0", "500"]) == 0  # fmt: skip
    assert "rating" in Dataset.load(tmp_path / "d").families


def test_clicks_of_0_are_told_and_left_out_when_asked(tmp_path):
    def clicked(user: int, event: int) -> float:
        return float((user + event) % 4 > 0)

    dataset = made(tmp_path / "s", clicked)
    said = dataset.manifest["understood"]["ratings"]
    assert said.startswith("warning: 0 to 1, recognised, become stars: 0 -> 1, 1 -> 5; also")
    assert "--min-rating 1" in said
    clicks = made(tmp_path / "s", clicked, min_rating=1)
    not_clicked = {
        (f"u{u}", f"i{(3 * u + e) % 24}")
        for u in range(USERS)
        for e in range(EVENTS)
        if not clicked(u, e)
    }
    assert not_clicked <= set(stars_by_pair(dataset))
    assert not_clicked.isdisjoint(stars_by_pair(clicks))
    assert clicks.manifest["counts"]["below_min_rating"] == len(not_clicked)
    assert clicks.families == ("sequential", "direct")  # what is left is 1 throughout


def test_ratings_can_be_left_out(tmp_path):
    written(tmp_path / "s")
    words = [*written(tmp_path / "s"), "--no-ratings", "--out", str(tmp_path / "d")]
    assert main(words) == 0
    dataset = Dataset.load(tmp_path / "d")
    assert dataset.interactions.column_names == ["user", "item", "rating", "timestamp", "split"]
    assert dataset.interactions["rating"].null_count == USERS * EVENTS
    assert dataset.fingerprint == made(tmp_path / "t", ratings=False).fingerprint


def test_a_least_rating_needs_ratings(tmp_path):
    (tmp_path / "s.txt").write_text("1 2 3 4\n")
    with pytest.raises(UserError, match=r"found no rating, expected some of 3 or more"):
        prepare("sequences", tmp_path / "d", sequences=tmp_path / "s.txt", min_rating=3)
