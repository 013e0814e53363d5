"""The page in a real browser: the walk of a newcomer, by mouse and keyboard, wide and narrow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from served import running, served_run

from p5jax.serving.http.engine import Engine
from p5jax.serving.http.service import Service
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import ServeConfig

pytestmark = pytest.mark.check
CHROMIUM = shutil.which("chromium")
SCREENSHOTS = os.environ.get("P5JAX_SCREENSHOTS", "")  # a folder, to look at them
PATIENCE = 120_000  # milliseconds


@pytest.fixture(scope="module")
def page(world, tmp_path_factory):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("needs Debian's chromium")
    folder = tmp_path_factory.mktemp("page")
    run = served_run(world, folder / "run", "2-3", "2-5", "3-1", "3-8", max_source=64)
    other = served_run(world, folder / "other", "2-1", "2-5", max_source=64)
    config = ServeConfig(beam=16, rows=2, seconds=300.0)
    service = Service([Recommender(run), Recommender(other)], list, config)
    changed = pytest.MonkeyPatch()
    changed.setattr(Engine, "warm", lambda *given: None)  # compiles what is asked alone
    with running(service) as serving, playwright.sync_playwright() as opened:
        browser = opened.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.troubles = []
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("requestfailed", lambda request: page.troubles.append(request.url))
        page.goto(f"http://127.0.0.1:{serving.port}/")
        yield page
        browser.close()
    changed.undo()


def shot(page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


def count(page, css: str, number: int) -> list[str]:
    """The texts of what a selector finds, once there are so many."""
    page.wait_for_function(
        "([css, number]) => document.querySelectorAll(css).length === number", arg=[css, number]
    )
    return page.locator(css).all_inner_texts()


def compare(page, run: str, prompt: str) -> None:
    """Set the first run's first prompt beside another, of the same run or of the other one."""
    options = page.locator(f"#other optgroup[label='run {run}'] option").all()
    (value,) = (
        option.get_attribute("value")
        for option in options
        if (option.text_content() or "").startswith(f"{prompt}:")
    )
    page.select_option("#other", value)
    page.click("#go")
    page.wait_for_selector(f"#lists h3 >> text='{run}, prompt {prompt}'")
    assert count(page, "#lists h3", 2) == ["run, prompt 2-3", f"{run}, prompt {prompt}"]


def test_the_walk_of_a_newcomer(page, world):
    page.wait_for_selector("#work", state="visible")
    assert f"{world.num_items} items" in page.inner_text("#about")
    assert page.is_disabled("#go")
    for number, title in enumerate((world.titles[3], world.titles[4]), 1):  # by keyboard alone
        page.fill("#query", title)
        page.wait_for_selector(f"#found button >> text='{title}'")
        page.keyboard.press("Enter")
        assert title in count(page, "#history li", number)[-1]
    page.focus("#go")
    page.keyboard.press("Enter")
    first = count(page, "#lists ol li", 10)
    assert page.inner_text(".badge") in ("guaranteed", "not guaranteed")
    assert f"user_{world.num_users + 1}" in page.inner_text("#views .text")
    assert page.locator(".tokens span").count() > 5
    assert "Search, step 1: of" in page.inner_text("#views")
    assert page.is_hidden("#memorised")  # the run has none
    shot(page, "recommended")

    page.click("#lists ol li button")
    said = "() => !['', '…'].includes(document.querySelector('#reason').textContent)"
    page.wait_for_function(said)
    shot(page, "explained")
    page.click("#add")
    page.click("#go")
    assert count(page, "#lists h3", 2) == ["Before", "Now"]
    assert page.locator("#lists > div:first-child ol li").all_inner_texts() == first
    compare(page, "run", "2-5")
    shot(page, "compared")
    compare(page, "other", "2-1")
    shot(page, "two_runs")
    page.click("#lists > div:last-child ol li button")  # of the run that does not explain
    page.wait_for_selector("#reason >> text='This model was not trained to explain.'")

    page.fill("#user", world.user_keys[7])
    page.wait_for_selector("#found button")
    page.keyboard.press("Enter")
    count(page, "#history li", len(world.sequence(7)))
    assert "press Recommend" in page.inner_text("#hint")  # the lists are another one's
    page.click("#go")
    page.wait_for_selector("#hint", state="hidden")
    page.emulate_media(color_scheme="dark")
    shot(page, "dark")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shot(page, "phone")
    assert page.troubles == []


def test_what_titles_hold_is_text(page):
    """A title with markup in it is shown as it is written."""
    evil = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    page.evaluate("title => add({ item: 'x', title })", evil)
    assert evil in page.locator("#history li").last.inner_text()
    assert page.locator("#history img").count() == 0
    assert page.title() == "p5jax: recommendations"
