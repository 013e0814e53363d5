"""The page of a cold-start study against means and differences of its per-user tables by NumPy."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5jax.cli.main import main
from p5jax.ppr.cold_study import StudyConfig

PLAIN = ("pretrain", "finetune", "light", "full", "popularity")
ABLATED = (
    "light without prompt part",
    "light without behaviour part",
    "light without contrastive",
)
NOISY = tuple(f"light, {share}% noise" for share in (10, 20, 30, 40, 50))
ODD = '<script>alert("1")</script> & <b>\'bold'
KINDS, RANKINGS = ("zero-shot", "few-shot", "1-shot"), ("candidates", "catalogue")
TITLES = {"candidates": "among frozen negatives", "catalogue": "among the whole catalogue"}
CUTS = (5, 10, 20, 50)
METRICS = ("AUC", *(f"{name}@{k}" for k in CUTS for name in ("HR", "NDCG")))
SHOWN = ("AUC", "HR@5", "NDCG@5", "HR@10", "NDCG@10")
USERS = 30  # of each seed, drawn among 50, so that seeds share some
VOID = {"meta", "br", "hr", "img", "input", "link"}
IMPLIED = {  # what may be left open, and which start tags close it
    "p": {"p", "table", "div", "h1", "h2", "h3"},
    "tr": {"tr"},
    "td": {"td", "th", "tr"},
    "th": {"td", "th", "tr"},
}


def per_user(seed, methods):
    """A seed's results at random: metric values by (method, kind, ranking), and as a table."""
    rng = np.random.default_rng(seed)
    users = np.sort(rng.choice(50, USERS, replace=False))
    values = {
        (method, kind, ranking): rng.random((USERS, len(METRICS)))
        for method in methods
        for kind in KINDS
        for ranking in RANKINGS
    }
    parts = [
        pa.table(
            {
                **{n: [v] * USERS for n, v in zip(("method", "kind", "ranking"), key, strict=True)},
                "seed": [seed] * USERS,
                "user": users,
                "cases": [2] * USERS,
                **dict(zip(METRICS, columns.T, strict=True)),
            }
        )
        for key, columns in values.items()
    ]
    return users, values, pa.concat_tables(parts)


def made(folder, *seeds):
    """A study folder of seeds with these methods; returns their users and values."""
    folder.mkdir()
    manifest = {"format_version": 1, "dataset": "d" * 64, "source": None}
    (folder / "study.json").write_text(
        json.dumps({**manifest, "settings": asdict(StudyConfig())}, indent=1)
    )
    found = []
    for seed, methods in enumerate(seeds):
        place = folder / f"seed-{seed}"
        place.mkdir()
        users, values, table = per_user(seed, methods)
        pq.write_table(table, place / "per_user.parquet")
        (place / "seconds.json").write_text(json.dumps({"pretrain": 10.5 + seed, "light": 2.25}))
        found.append((users, values))
    return found


def over_users(found, *key):
    """{user: mean of the metrics over the seeds in which the user tests}, [users, metrics]."""
    rows: dict[int, list[np.ndarray]] = {}
    for users, values in found:
        for user, row in zip(users.tolist(), values[key], strict=True):
            rows.setdefault(user, []).append(row)
    return np.array([np.mean(rows[user], axis=0) for user in sorted(rows)])


class Page(HTMLParser):
    """Tables as lists of rows of cells by their headings (h2, h3), and the mistakes of the tags."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.mistakes: list[str] = []
        self.tags: set[str] = set()
        self.outside: list[str] = []
        self.heading = {"h1": "", "h2": "", "h3": ""}
        self.tables: dict[tuple[str, str], list[list[str]]] = {}
        self.svgs: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        self.mistakes += [tag for tag in self.open if tag not in IMPLIED]

    def place(self):
        return self.heading["h2"], self.heading["h3"]

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data") and value[0] != "#":
                self.outside.append(value)
        if "svg" not in self.open:
            while self.open and tag in IMPLIED.get(self.open[-1], ()):
                self.open.pop()
        if tag not in VOID:
            self.open.append(tag)
        if tag in self.heading:
            self.heading[tag] = ""
            if tag == "h2":
                self.heading["h3"] = ""
        elif tag == "svg":
            self.svgs.append(self.place())
        elif tag == "table":
            self.tables[self.place()] = []
        elif tag == "tr":
            self.tables[self.place()].append([])
        elif tag in ("td", "th"):
            self.tables[self.place()][-1].append("")
        elif tag == "small":
            self.tables[self.place()][-1][-1] += " "

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        while self.open and self.open[-1] != tag and self.open[-1] in IMPLIED:
            self.open.pop()
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(f"/{tag}")

    def handle_data(self, text):
        if self.open and self.open[-1] in self.heading:
            self.heading[self.open[-1]] += text
        elif {"td", "th"} & set(self.open):
            self.tables[self.place()][-1][-1] += text


def reported(folder, capsys):
    capsys.readouterr()
    assert main(["ppr", "report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    return (folder / "report.html").read_text()


def numbers(cell):
    return [float(x) for x in re.findall(r"[-+]?\d+\.\d+", cell)]


def check_table(rows, found, kind, ranking, methods, reference):
    """Each cell: mean, its interval, and the paired difference from the first row."""
    assert rows[0] == ["", *SHOWN]
    assert [row[0] for row in rows[1:]] == [reference, *(m for m in methods if m != reference)]
    base = over_users(found, reference, kind, ranking)
    n = len(base)
    for method, *cells in rows[1:]:
        values = over_users(found, method, kind, ranking)
        for name, cell in zip(SHOWN, cells, strict=True):
            column = METRICS.index(name)
            own = values[:, column]
            error = own.std() / n**0.5
            mean, low, high, *rest = numbers(cell)
            assert mean == pytest.approx(own.mean(), abs=6e-5)
            if error > 0:  # a bootstrap of means is nearly normal
                wanted = own.mean() - 1.96 * error, own.mean() + 1.96 * error
                assert (low, high) == pytest.approx(wanted, abs=0.3 * error + 6e-5)
            assert 0 <= low < mean < high <= 1
            if method == reference:
                assert not rest
                continue
            difference, low, high, p_value = rest
            change = own - base[:, column]
            half = 1.96 * change.std(ddof=1) / n**0.5
            assert difference == pytest.approx(change.mean(), abs=6e-5)
            # the bootstrap's interval: that of the normal distribution, about
            np.testing.assert_allclose(
                [low, high], [change.mean() - half, change.mean() + half], atol=0.15 * half
            )
            assert (p_value < 0.05) == (low > 0 or high < 0)


def heights(svg, points):
    """The y of each line of that many points, downwards in the figure's units."""
    lines = re.findall(r'<path d="(M [^"z]*)" clip-path', svg)
    lines = [np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", line), float) for line in lines]
    return [line for line in lines if len(line) == points]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Two seeds with all methods, their values and the page."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    methods = (*PLAIN, ODD, *ABLATED, *NOISY)
    found = made(folder, methods, methods)
    assert main(["ppr", "report", str(folder)]) == 0
    return found, (folder / "report.html").read_text()


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_tables_hold_what_the_per_user_results_say(everything, kind, ranking):
    found, text = everything
    page, title = Page(text), f"{kind}, {TITLES[ranking]}"
    check_table(page.tables[title, ""], found, kind, ranking, (*PLAIN, ODD), "finetune")
    for name, methods in (("Without contrastive parts", ABLATED), ("Wrong profiles", NOISY)):
        rows = page.tables[title, name]
        check_table(rows, found, kind, ranking, ("finetune", *methods), "light")
    users = len({user for users, _ in found for user in users.tolist()})
    assert USERS < users < 2 * USERS  # some are in both seeds
    assert f"{4 * USERS} cases of {users} users, 2 seeds" in text


def test_the_noise_curve_goes_through_the_means(everything):
    found, text = everything
    page = Page(text)
    assert page.svgs == [(f"{k}, {TITLES[r]}", "Wrong profiles") for k in KINDS for r in RANKINGS]
    svgs = re.findall(r"<svg.*?</svg>", text, re.S)
    for svg, (kind, ranking) in zip(svgs, [(k, r) for k in KINDS for r in RANKINGS], strict=True):
        assert f"NDCG@10, {kind}, {TITLES[ranking]}" in svg
        means = [
            over_users(found, method, kind, ranking)[:, METRICS.index("NDCG@10")].mean()
            for method in ("light", *NOISY, "finetune")
        ]
        (light,), (finetune,) = heights(svg, 6), heights(svg, 2)
        np.testing.assert_allclose(np.diff(light[:, 0]), np.diff(light[:, 0])[0], rtol=1e-4)
        assert finetune[0, 1] == finetune[1, 1]
        drawn = np.append(light[:, 1], finetune[0, 1])
        slope, start = np.polyfit(means, drawn, 1)
        assert slope < 0  # up is down in SVG
        np.testing.assert_allclose(start + slope * np.array(means), drawn, atol=1e-3)


def test_the_page_is_whole_and_alone_and_names_are_text(everything):
    _, text = everything
    page = Page(text)
    assert page.mistakes == []
    assert page.outside == []
    assert page.heading["h1"] == "study · p5jax"
    assert not page.tags & {"script", "b", "link", "img", "iframe"}
    assert not re.search(r"@import|url\((?!#)|\son\w+=", text)
    assert ODD not in text


def test_seconds_are_summed_over_seeds(everything):
    _, text = everything
    rows = Page(text).tables["Seconds", ""]
    assert rows[1:] == [["pretrain", "22.0"], ["light", "4.5"], ["total", "26.5"]]


def test_a_growing_study_has_tables_over_the_seeds_that_have_their_methods(tmp_path, capsys):
    folder = tmp_path / "study"
    first = (*PLAIN, *ABLATED, *NOISY[:2])
    found = made(folder, first, (*PLAIN, NOISY[0]), PLAIN)
    (folder / "seed-3").mkdir()
    text = reported(folder, capsys)
    page = Page(text)
    assert "Not finished: seed-3; below are only their seconds." in text
    assert f"Left out, as only some seeds have them: {NOISY[1]}." in text
    for kind in KINDS:
        title = f"{kind}, {TITLES['catalogue']}"
        check_table(page.tables[title, ""], found, kind, "catalogue", PLAIN, "finetune")
        ablated = page.tables[title, "Without contrastive parts"]
        check_table(ablated, found[:1], kind, "catalogue", ("finetune", *ABLATED), "light")
        wrong = page.tables[title, "Wrong profiles"]
        check_table(wrong, found[:2], kind, "catalogue", ("finetune", NOISY[0]), "light")


def test_tuning_curves_are_means_over_the_seeds(tmp_path, capsys):
    folder = tmp_path / "study"
    made(folder, PLAIN, PLAIN)
    assert Page(reported(folder, capsys)).svgs == []
    values = np.random.default_rng(3).random((2, 4))
    for seed, row in enumerate(values):
        place = folder / f"seed-{seed}" / "light"
        place.mkdir()
        records = [{"step": 10 * i, "validation/NDCG@10": v} for i, v in enumerate(row)]
        records += [{"step": 30, "train/loss": 1.5}, {"step": 40 + seed, "validation/NDCG@10": 9.0}]
        (place / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    text = reported(folder, capsys)
    page = Page(text)
    assert page.svgs == [("Tuning", "")]
    (svg,) = re.findall(r"<svg.*?</svg>", text, re.S)
    (drawn,) = heights(svg, 4)
    means = values.mean(axis=0)
    slope, start = np.polyfit(means, drawn[:, 1], 1)
    assert slope < 0
    np.testing.assert_allclose(start + slope * means, drawn[:, 1], atol=1e-3)


@pytest.mark.parametrize("fault", ["absent", "no study", "no seed", "no parquet", "no finetune"])
def test_a_folder_that_is_no_study_is_one_line(tmp_path, capsys, fault):
    folder = tmp_path / "study"
    if fault == "no study":
        folder.mkdir()
    elif fault == "no seed":
        made(folder)
        (folder / "seed-0").mkdir()
    elif fault == "no parquet":
        made(folder, PLAIN)
        (folder / "seed-0" / "per_user.parquet").write_text("words")
    elif fault == "no finetune":
        made(folder, ("light", "popularity"))
    assert main(["ppr", "report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    expected = {
        "absent": "no study.json",
        "no study": "no study.json",
        "no seed": "found no finished seed",
        "no parquet": "per_user.parquet: ",
        "no finetune": "method 'finetune': found light",
    }
    assert expected[fault] in error
    assert not list(tmp_path.rglob("report.html*"))
