"""A report as one HTML page that needs nothing else: no script, no network.

Every name and path is escaped where it becomes markup; pictures are inline SVG.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

from comigs_mlx.reports import oracle, sharing
from comigs_mlx.reports.chart import Line, Mark, curves, intervals
from comigs_mlx.reports.oracle import OracleGap
from comigs_mlx.reports.report import Compared, Report, of_comparison
from comigs_mlx.reports.sharing import Candidate, Sharing

NAMES = {
    "base": "base model",
    "specialist": "specialist alone",
    "none": "nothing shared",
    "now": "as it is now",
}
"""What candidates are called on the page; kept generalists have names already."""


def to_html(report: Report) -> str:
    """The report as one HTML page, safe for any name or path."""
    body = [_sharing(report.sharing, report.interval_over)]
    if report.oracle is not None:
        body.append(_oracle(report.oracle))
    body += (_compared(each, report.layers) for each in report.divergence)
    about = (
        f"base model {report.model}; text: {report.data}, {report.split}: "
        f"{report.tokens:,} tokens predicted, {report.units:,} {report.interval_over}"
    )
    parts = {
        "RUN": html.escape(report.run),
        "ABOUT": html.escape(about),
        "BODY": "\n".join(body),
    }
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    # One pass: a name that looks like a placeholder stays a name.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def _section(title: str, parts: Iterable[str]) -> str:
    inside = "\n".join(parts)
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{inside}\n</section>"


def _paragraphs(sentences: Sequence[str], first: str = "") -> list[str]:
    """One paragraph a sentence; the first may have a class of its own."""
    classes = [f' class="{first}"' if first else "", *[""] * len(sentences)]
    pairs = zip(classes, sentences, strict=False)
    return [f"<p{kind}>{html.escape(text)}</p>" for kind, text in pairs]


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names its rows."""

    def row(cells: Sequence[str], all_heads: bool = False) -> str:
        first, *rest = (html.escape(cell) for cell in cells)
        kind, scope = ("th", ' scope="col"') if all_heads else ("td", "")
        others = "".join(f"<{kind}{scope}>{cell}</{kind}>" for cell in rest)
        own = "col" if all_heads else "row"
        return f'<tr><th scope="{own}">{first}</th>{others}</tr>'

    lines = [row(head, True), *map(row, rows)]
    return (
        f'<div class="wide" tabindex="0"><table><caption>{html.escape(caption)}'
        f"</caption>{''.join(lines)}</table></div>"
    )


def _sharing(found: Sharing, over: str) -> str:
    drawn = [
        Mark(_name(each), change.mean, change.interval, _kind(each))
        for each in found.candidates
        if each.name != "base" and (change := each.against_none) is not None
    ]
    parts = _paragraphs(sharing.sentences(found), "answer")
    reference = NAMES[found.reference]
    if drawn:
        title = f"Difference of the loss to: {reference}"
        axis = f"← better | difference to: {reference}, nats per token | worse →"
        parts.append(intervals(drawn, title, axis))
    parts.append(_losses(found, reference, over))
    parts.append(
        '<p class="note">All rows use the specialists and the router that the run has '
        "now. The specialists have learnt beside generalists: a run that had never "
        "shared might do better than “nothing shared”, which also leaves out the "
        "attention LoRA, a part of the generalist that “specialist alone” has.</p>"
    )
    return _section("Is sharing helping me?", parts)


def _losses(found: Sharing, reference: str, over: str) -> str:
    rows = []
    for each in found.candidates:
        loss = "not finite" if each.score is None else f"{each.score.loss:.4f}"
        change, low, high = each.against_none, "", ""
        if change is not None and change.interval is not None:
            low, high = (f"{end:+.4f}" for end in change.interval)
        mean = "" if change is None else f"{change.mean:+.4f}"
        rows.append((_name(each), loss, mean, low, high))
    head = ("", "loss", f"difference to: {reference}", "95 % from", "to")
    return _table(f"Nats per token; intervals over {over}, paired", head, rows)


def _name(each: Candidate) -> str:
    return NAMES.get(each.name, each.name) if each.round is None else each.name


def _kind(each: Candidate) -> str:
    if each.round is None and each.name != "now":
        return "plain"
    own = each.round is not None and each.round < 0
    return "own" if own or each.name == "now" else "shared"


def _oracle(gap: OracleGap) -> str:
    rows = [
        (name, f"{loss:.4f}", f"{gap.best_on[name]:.1%}")
        for name, loss in gap.experts.items()
    ]
    rows.append(("mixture", f"{gap.mixture:.4f}", ""))
    rows.append(("oracle: the best expert at every token", f"{gap.oracle:.4f}", ""))
    head = ("", "loss", "best on this share of tokens")
    table = _table("Nats per token; each expert where it speaks alone", head, rows)
    sentences = [*_paragraphs(oracle.sentences(gap), "answer")]
    return _section("How far is the router from the best expert?", [*sentences, table])


def _compared(each: Compared, layers: list[str]) -> str:
    blocks = [short_name(path, index) for index, path in enumerate(layers)]
    lines = [Line(f"against the other {each.kind}", each.found.normalised, "shared")]
    if each.within is not None:
        halves = Line("two halves of this text", each.within.normalised, "plain")
        lines.insert(0, halves)
    title = f"Routing divergence from {each.name}, block by block"
    picture = curves(lines, blocks, title, "divergence / entropy")
    head = ["block", "divergence, nats", "mean entropy", "divided"]
    head += [f"{name}: {who}" for name in each.experts for who in ("here", "there")]
    table = _table("Mean weights of both groups", head, _blocks(each, layers))
    what = "another text" if each.kind == "text" else "another run, the same text"
    counts = f"{what}: {each.tokens[0]:,} tokens here, {each.tokens[1]:,} there"
    return _section(
        f"Where is {each.name} routed differently?",
        [
            *_paragraphs(of_comparison(each, layers), "answer"),
            f'<p class="note">{html.escape(counts)}</p>',
            picture,
            f"<details><summary>All numbers</summary>{table}</details>",
        ],
    )


def _blocks(each: Compared, layers: list[str]) -> Iterable[list[str]]:
    found = each.found
    for block, path in enumerate(layers):
        divided = found.normalised[block]
        weights = zip(*(group[block] for group in each.weights), strict=True)
        yield [
            path,
            f"{found.nats[block]:.3g}",
            f"{found.entropy[block]:.4f}",
            "infinite" if divided is None else f"{divided:.3g}",
            *(f"{weight:.3f}" for pair in weights for weight in pair),
        ]


def short_name(path: str, index: int) -> str:
    """The number in a block's path, such as 3 of model.layers.3.mlp."""
    found = re.search(r"\d+", path)
    return found[0] if found else str(index)
