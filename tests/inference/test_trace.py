"""A routing trace as JSON and as a page."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from comigs_mlx.errors import ModelError
from comigs_mlx.inference.trace import (
    Trace,
    TraceToken,
    from_json,
    specialist_shares,
    summary,
    to_html,
    to_json,
    unwritable,
)

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--",
    "&lt;b&gt;",
    "\u2028\u2029",
    "{{MODEL}}{{TRACE}}",
    "\\1 \\g<0>",
    "\ud83d",
    "\n\n",
    "",
]


def trace_of(shares, prompt=(), layers=None):
    """Two experts; `shares[token][layer]` is the specialist's weight."""
    layers = layers or [f"model.layers.{i}.mlp" for i in range(len(shares[0]))]
    tokens = [
        TraceToken(i, f" t{i}", i in prompt, [[1 - s, s] for s in row])
        for i, row in enumerate(shares)
    ]
    return Trace("tiny", ["generalist", "specialist"], layers, tokens)


def hostile():
    tokens = [TraceToken(i, t, False, [[0.25, 0.75]]) for i, t in enumerate(HOSTILE)]
    experts = ["generalist", "specialist</script>"]
    return Trace("<b>&\"' {{TRACE}}", experts, ["model.layers.0.mlp"], tokens)


def test_json_is_the_public_format():
    token = TraceToken(7, " Ada", False, [[1 / 3, 2 / 3]])
    trace = Trace("demo", ["generalist", "specialist"], ["model.layers.0.mlp"], [token])
    assert to_json(trace) == {
        "model": "demo",
        "experts": ["generalist", "specialist"],
        "layers": ["model.layers.0.mlp"],
        "tokens": [
            {
                "id": 7,
                "text": " Ada",
                "prompt": False,
                "weights": [[0.333333, 0.666667]],
            }
        ],
    }


def test_json_round_trip():
    trace = hostile()
    assert from_json(json.loads(json.dumps(to_json(trace)))) == trace


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ((), [], "expected an object"),
        (("model",), 3, "'model' must be a str"),
        (("experts",), None, "'experts' must be a list"),
        (("layers",), [1], "'layers' must hold names"),
        (("tokens",), {}, "'tokens' must be a list"),
        (("tokens", 1), "x", "token 1: 'id'"),
        (("tokens", 1, "id"), True, "token 1: 'id' must be a int"),
        (("tokens", 1, "prompt"), 1, "token 1: 'prompt' must be a bool"),
        (("tokens", 1, "weights"), [[1, 0]], "must hold 2 lists of 2 numbers"),
        (("tokens", 1, "weights", 0), [1], "must hold 2 lists of 2 numbers"),
        (("tokens", 1, "weights", 0, 0), "1", "must hold 2 lists of 2 numbers"),
        (("tokens", 1, "weights", 0, 0), float("nan"), "2 lists of 2 numbers"),
    ],
)
def test_what_is_no_trace_is_refused_with_the_reason(path, value, expected):
    data = to_json(trace_of([[0.5, 0.5], [0.5, 0.5]]))
    if not path:
        data = value
    else:
        part = data
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
    with pytest.raises(ModelError) as error:
        from_json(data)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("who.json", json.dumps(to_json(trace_of([[0.5]])))),
        ("who.html", to_html(hostile()).encode("ascii", "replace").decode()),
        ("who.json", None),
        ("who.json", ""),
    ],
)
def test_a_trace_may_replace_a_trace(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert unwritable(tmp_path / name) is None


@pytest.mark.parametrize(
    "content",
    [b"\n", b'{"messages": []}', b"\xff", b"[" * 100_000, b"<title>Diary</title>"],
)
def test_a_trace_replaces_nothing_else(tmp_path, content):
    file = tmp_path / "diary.json"
    file.write_bytes(content)
    assert unwritable(file) == "it is there and is no trace: choose another name"


def test_specialist_shares_sum_the_specialists_of_each_layer():
    experts = ["generalist", "generalist-1", "specialist", "specialist-1"]
    token = TraceToken(0, "x", False, [[0.5, 0, 0.25, 0.25], [0, 0.25, 0.75, 0]])
    assert specialist_shares(token, experts) == [0.5, 0.75]
    nowhere = TraceToken(0, "x", False, [])
    assert specialist_shares(nowhere, experts) == []


def test_summary_names_the_strongest_neighbouring_layers():
    row = [0.1] * 20 + [0.9] * 9 + [0.1]
    prompt = [1.0] * 30
    line = summary(trace_of([prompt, row, row], prompt={0}))
    assert line == "34 % specialist, most in layers 20-28"


def test_summary_takes_layer_numbers_from_the_paths():
    layers = [f"model.layers.{i}.mlp" for i in (22, 23, 24)]
    line = summary(trace_of([[0.0, 0.0, 0.6]], layers=layers))
    assert line == "20 % specialist, most in layer 24"


def test_summary_of_even_routing_a_bare_prompt_and_nothing():
    even = "50 % specialist, about the same in every layer"
    assert summary(trace_of([[0.5, 0.51, 0.5]])) == even
    assert summary(trace_of([[0.5, 0.5]], prompt={0})) == even
    assert summary(Trace("tiny", ["generalist"], [], [])) == "no tokens"


def test_summary_leaves_out_what_nobody_routed():
    """A page's chat of one answer of the base alone and one of the mixture."""
    mixture, base = [[0.5, 0.5], [0.25, 0.75]], [[0.0, 0.0], [0.0, 0.0]]
    tokens = [
        TraceToken(-1, "question", True, base),
        *(TraceToken(i, "x", False, base) for i in range(3)),
        TraceToken(3, "y", False, mixture),
    ]
    trace = Trace("tiny", ["generalist", "specialist"], ["l.0", "l.1"], tokens)
    line = "62 % specialist, most in layer 1; 3 of 4 tokens were not routed"
    assert summary(trace) == line
    alone = Trace("tiny", trace.experts, trace.layers, tokens[:4])
    assert summary(alone) == "the base model alone"
    bare = [TraceToken(1, "x", False, [])]
    assert summary(Trace("tiny", [], [], bare)) == "the base model alone"


def test_a_token_routed_to_the_generalist_alone_counts():
    assert summary(trace_of([[0.0], [1.0]])).startswith("50 % specialist")


class Page(HTMLParser):
    """Tags, attributes and the contents of script elements of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.title = [], [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.tags and self.tags[-1] == "title" and not self.title:
            self.title = data


def test_page_keeps_every_text_a_text():
    page, plain = Page(to_html(hostile())), Page(to_html(trace_of([[0.5]])))
    assert page.tags == plain.tags  # nothing in the trace became an element
    assert len(page.scripts) == 2
    assert json.loads(page.scripts[0]) == to_json(hostile())
    assert not re.search("[<>&\u2028\u2029]", page.scripts[0])
    assert page.title == "Routing trace: <b>&\"' {{TRACE}}"


def test_page_needs_nothing_else():
    page = to_html(trace_of([[0.5]]))
    assert not {"src", "href"} & {name for name, _ in Page(page).attributes}
    assert not re.search(r"https?://|@import|url\(|fetch\(", page)
    assert "default-src 'none'" in page


def test_page_never_parses_text_as_markup():
    page = files("comigs_mlx.inference").joinpath("trace.html").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", page
    )


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    parts = [c / 255 for c in colour]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
    ]
    return sum(k * c for k, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_on_the_strongest_tints_has_contrast(mode):
    page = files("comigs_mlx.inference").joinpath("trace.html").read_text()

    def colour(name):
        code = re.findall(rf"--{name}: #(\w{{6}})", page)[mode]
        return tuple(bytes.fromhex(code))

    hues = [tuple(map(int, h.split())) for h in re.findall(r'"(\d+ \d+ \d+)"', page)]
    opacity = float(re.search(r"STRONGEST = ([\d.]+)", page)[1])
    assert len(hues) == 5
    for hue in hues:
        pairs = zip(hue, colour("page"), strict=True)
        tint = [opacity * h + (1 - opacity) * p for h, p in pairs]
        assert contrast(tint, colour("text")) >= 4.5
    for surface in ("page", "card"):
        assert contrast(colour(surface), colour("text")) >= 7
        assert contrast(colour(surface), colour("soft")) >= 4.5
