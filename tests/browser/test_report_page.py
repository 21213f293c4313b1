"""The page that `report --html` writes, as a reader meets it."""

import numpy as np
import pytest

from comigs_mlx.reports.divergence import divergence
from comigs_mlx.reports.oracle import oracle_gap
from comigs_mlx.reports.page import to_html
from comigs_mlx.reports.report import Compared, Report
from comigs_mlx.reports.sharing import Candidate, Sharing, compared
from comigs_mlx.training.evaluation import Score

pytestmark = pytest.mark.browser

ATTACK = "<img src=x onerror=document.title='hacked'>"
LAYERS = [f"model.layers.{i}.mlp" for i in range(30)]


def score(*losses):
    return Score(dict(enumerate(losses)), dict.fromkeys(range(len(losses)), 1))


def report():
    candidates = [
        Candidate("base", score(4.0, 5.0, 6.0)),
        Candidate("none", score(3.0, 4.0, 5.2)),
        Candidate("now", score(2.0, 3.5, 4.9)),
        Candidate("round 1", score(2.1, 3.5, 4.8), 1),
        Candidate("round 2", score(2.9, 4.4, 5.9), 2),
    ]
    rng = np.random.default_rng(0)
    one, other = (rng.dirichlet([9, 9], 30) for _ in range(2))
    losses = rng.uniform(1, 5, (2, 40))
    experts = {"generalist": losses[0], "specialist": losses[1]}
    weights = rng.dirichlet([9, 9], 40)
    gap = oracle_gap(losses.mean(0), experts, tuple(losses), weights, 1)
    part = Compared(
        "text",
        ATTACK,
        (40, 40),
        ["generalist", "specialist"],
        [one.tolist(), other.tolist()],
        divergence(one, other),
        divergence(one, one * 0.9),
    )
    shared = Sharing("none", compared(candidates, "none"), [ATTACK])
    named = ATTACK, "demo" + ATTACK, ATTACK, "test"
    return Report(*named, 40, 3, "documents", LAYERS, shared, gap, [part])


@pytest.fixture
def opened(page, tmp_path):
    """(colour scheme, width) -> the page; it may ask nobody for anything."""

    def show(scheme="light", width=1000):
        file = tmp_path / "report.html"
        file.write_text(to_html(report()), encoding="utf-8")
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(file.as_uri())
        return page

    return show


def test_names_stay_text(opened):
    page = opened()
    assert page.title() == f"Report: {ATTACK}"
    assert page.locator("img, script").count() == 0
    assert page.locator("h1").inner_text() == f"Report: {ATTACK}"


def test_the_pictures_and_the_sentence_on_a_worse_round_are_there(opened):
    page = opened()
    assert page.locator("svg[role=img]").count() == 2
    assert page.locator("svg").first.locator("circle").count() == 3
    assert "Round 2 made it worse than round 1" in page.locator("body").inner_text()


def luminance(colour):
    numbers = [float(part) for part in colour.strip("rgb()").split(",")[:3]]
    linear = [
        n / 255 / 12.92 if n / 255 <= 0.03928 else ((n / 255 + 0.055) / 1.055) ** 2.4
        for n in numbers
    ]
    return sum(f * x for f, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_can_be_read(opened, scheme):
    page = opened(scheme)
    background = "node => getComputedStyle(node).backgroundColor"
    behind = page.locator("body").evaluate(background)
    card = page.locator("svg").first.evaluate(background)
    for node in page.locator("p, th, td, summary, h1, h2").all():
        colour = node.evaluate("n => getComputedStyle(n).color")
        assert contrast(colour, behind) >= 4.5
    for node in page.locator("svg text").all():
        assert contrast(node.evaluate("n => getComputedStyle(n).fill"), card) >= 4.5
    assert (luminance(behind) < 0.1) == (scheme == "dark")


def test_a_phone_scrolls_in_one_direction_only(opened):
    page = opened(width=390)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
