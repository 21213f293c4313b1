"""The page that `generate --html` writes, as a reader meets it."""

import pytest

from comigs_mlx.inference.trace import Trace, TraceToken, to_html

pytestmark = pytest.mark.browser

ATTACK = "<img src=x onerror=document.title='hacked'>"
LAYERS = ["model.layers.0.mlp", "model.layers.1.mlp"]


def token(text, *weights, prompt=False):
    return TraceToken(
        id=1, text=text, prompt=prompt, weights=[list(w) for w in weights]
    )


@pytest.fixture
def trace_page(page, tmp_path):
    tokens = [
        token("Why", (0.5, 0.5), (0.5, 0.5), prompt=True),
        token(" mine", (0.0, 1.0), (0.0, 1.0)),
        token(" all", (1.0, 0.0), (1.0, 0.0)),
        token(ATTACK, (1.0, 0.0), (0.0, 1.0)),
    ]
    trace = Trace("</script><b>demo", ["generalist", "specialist"], LAYERS, tokens)
    file = tmp_path / "trace.html"
    file.write_text(to_html(trace), encoding="utf-8")
    page.goto(file.as_uri())
    return page


def show(page, folder, tokens):
    """Open the page of a trace of one layer."""
    trace = Trace("demo", ["generalist", "specialist"], LAYERS[:1], tokens)
    file = folder / "another.html"
    file.write_text(to_html(trace), encoding="utf-8")
    page.goto(file.as_uri())


def background(page, index):
    script = "node => getComputedStyle(node).backgroundColor"
    return page.locator(".token").nth(index).evaluate(script)


def test_tokens_are_tinted_by_who_spoke(trace_page):
    neutral, mine, everyone = (background(trace_page, i) for i in (0, 1, 2))
    assert "rgba(230, 120, 0" in mine
    assert "rgba(0, 114, 178" in everyone
    assert neutral.endswith(", 0)")


def test_the_legend_says_how_strong_the_strongest_tint_is(trace_page, tmp_path):
    scale = trace_page.locator("#scale")
    assert scale.inner_text() == "full tint: 100 % of one side"
    tokens = [
        token("a", (0.3, 0.7)),
        token("b", (0.5, 0.5)),
        token("c", (0.4, 0.6)),
    ]
    show(trace_page, tmp_path, tokens)
    assert scale.inner_text() == "full tint: 70 % of one side"
    assert background(trace_page, 0) == "rgba(230, 120, 0, 0.5)"
    assert background(trace_page, 2) == "rgba(230, 120, 0, 0.25)"


def test_noise_is_not_shown_as_a_lean(trace_page, tmp_path):
    """A router that was never trained leans by a hundredth, somewhere."""
    show(trace_page, tmp_path, [token("a", (0.49, 0.51)), token("b", (0.5, 0.5))])
    text = trace_page.locator("#scale").inner_text()
    assert text == "full tint: 63 % of one side"
    assert background(trace_page, 0) == "rgba(230, 120, 0, 0.04)"


def test_hover_and_keys_show_the_layers(trace_page):
    tokens, detail = trace_page.locator(".token"), trace_page.locator("#detail")
    tokens.nth(1).hover()
    assert "100 % specialist, all layers" in detail.inner_text()
    assert detail.locator("tr").count() == 1 + len(LAYERS)
    tokens.nth(1).focus()
    trace_page.keyboard.press("ArrowRight")
    assert "0 % specialist, all layers" in detail.inner_text()


def test_a_token_without_text_stands_with_its_neighbour(trace_page, tmp_path):
    """Held back: the next one shows it; the end of an answer shows nothing."""
    tokens = [
        token("", (0.5, 0.5), prompt=True),  # a prompt that ends in half a character
        token("", (1.0, 0.0)),
        token("", (0.0, 1.0)),
        token(" 🌟", (0.5, 0.5)),
        token("!", (0.0, 1.0)),
        token("", (1.0, 0.0)),
    ]
    show(trace_page, tmp_path, tokens)
    spans = trace_page.locator(".generated .token")
    assert spans.all_inner_texts() == [" 🌟", "!"]
    assert trace_page.locator(".prompt .token").count() == 1
    spans.nth(1).hover()
    shown = trace_page.locator("#detail").inner_text()
    assert "tokens 1, 1: 50 % specialist" in shown


def test_one_layer_can_be_chosen(trace_page):
    trace_page.locator("#layer").select_option("1")
    assert "rgba(230, 120, 0" in background(trace_page, 3)
    trace_page.locator("#layer").select_option("0")
    assert "rgba(0, 114, 178" in background(trace_page, 3)


def test_what_a_model_says_stays_text(trace_page):
    assert trace_page.locator("#text img").count() == 0
    assert ATTACK in trace_page.locator(".token").nth(3).inner_text()
    assert trace_page.title() == "Routing trace: </script><b>demo"


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_cut_off(trace_page, width):
    trace_page.set_viewport_size({"width": width, "height": 800})
    script = "document.documentElement.scrollWidth <= window.innerWidth"
    assert trace_page.evaluate(script)
