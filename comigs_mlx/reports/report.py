"""A run's report as one value: as JSON, and as plain text for people.

The JSON form is public; `docs/reports.md` documents it. It goes up by a version where a
field changes its meaning or goes away; new fields come without one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from comigs_mlx.reports import divergence, oracle, sharing
from comigs_mlx.reports.divergence import Divergence
from comigs_mlx.reports.oracle import OracleGap
from comigs_mlx.reports.sharing import Candidate, Sharing
from comigs_mlx.training.evaluation import Difference

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Compared:
    """The routing divergence of the run's text from another group's.

    Attributes:
        kind: The kind of the other group: `text` (this run on another text) or `run`
            (another run on this text).
        name: The name of the other group: a path, as it was given.
        tokens: The number of tokens of this group and of the other one.
        experts: The names of the entries of `weights`.
        weights: The mean weights of both groups, `[2][L][entries]`.
        found: The divergence between them.
        within: The divergence between two halves of this group's documents; None where
            there is only one document.
    """

    kind: str
    name: str
    tokens: tuple[int, int]
    experts: list[str]
    weights: list[list[list[float]]]
    found: Divergence
    within: Divergence | None


@dataclass(frozen=True)
class Report:
    """What is known of a run on one held-out text.

    Attributes:
        run: The folder of the run, as it was given.
        model: The id of the base model.
        data: The text, as it was given.
        split: The part of the text that was measured.
        tokens: The number of predicted tokens.
        units: The number of documents or windows that intervals are drawn over.
        interval_over: The kind of these units: `documents` or `windows`.
        layers: The paths of the adapted blocks.
        sharing: Whether sharing helps.
        oracle: The oracle gap; None for a run with one expert.
        divergence: The comparisons with other texts and runs.
    """

    run: str
    model: str
    data: str
    split: str
    tokens: int
    units: int
    interval_over: str
    layers: list[str]
    sharing: Sharing
    oracle: OracleGap | None
    divergence: list[Compared]


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON data: numbers that are not finite are null."""
    return {
        "format_version": FORMAT_VERSION,
        "run": report.run,
        "model": report.model,
        "data": report.data,
        "split": report.split,
        "tokens": report.tokens,
        "units": report.units,
        "interval_over": report.interval_over,
        "layers": report.layers,
        "sharing": _sharing(report.sharing),
        "oracle": None if report.oracle is None else _oracle(report.oracle),
        "divergence": [_compared(each, report.layers) for each in report.divergence],
    }


def _sharing(found: Sharing) -> dict[str, Any]:
    return {
        "answer": sharing.verdict(found),
        "reference": found.reference,
        "candidates": [_candidate(each) for each in found.candidates],
        "sentences": sharing.sentences(found),
    }


def _candidate(each: Candidate) -> dict[str, Any]:
    score = each.score
    return {
        "name": each.name,
        "round": each.round,
        "loss": None if score is None else score.loss,
        "perplexity": None if score is None else _finite(score.perplexity),
        "against_none": _difference(each.against_none),
        "against_before": _difference(each.against_before),
        "before": each.before,
    }


def _difference(change: Difference | None) -> dict[str, Any] | None:
    if change is None:
        return None
    interval = None if change.interval is None else list(change.interval)
    return {"difference": change.mean, "ci95": interval}


def _oracle(gap: OracleGap) -> dict[str, Any]:
    return {
        **asdict(gap),
        "threshold": oracle.DECIDED,
        "sentences": list(oracle.sentences(gap)),
    }


def _compared(each: Compared, layers: list[str]) -> dict[str, Any]:
    within = None if each.within is None else each.within.normalised
    return {
        "kind": each.kind,
        "name": each.name,
        "tokens": list(each.tokens),
        "experts": each.experts,
        "weights": each.weights,
        "nats": each.found.nats,
        "entropy": each.found.entropy,
        "normalised": each.found.normalised,
        "mean": each.found.mean,
        "within": within,
        "sentences": of_comparison(each, layers),
    }


def of_comparison(each: Compared, layers: list[str]) -> list[str]:
    """The sentences on one comparison."""
    return divergence.sentences(each.found, each.within, layers, each.name)


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def text(report: Report) -> str:
    """The report for people."""
    lines = [
        f"{report.data}, {report.split}: {report.tokens:,} tokens predicted, "
        f"{report.units:,} {report.interval_over}",
        "",
        "Is sharing helping me?",
        *(f"  {line}" for line in sharing.sentences(report.sharing)),
        "",
        *_table(report.sharing),
    ]
    if report.oracle is not None:
        lines += ["", "How far is the router from the best expert?"]
        lines += [f"  {line}" for line in oracle.sentences(report.oracle)]
        shares = report.oracle.best_on.items()
        each = ", ".join(f"{name} {share:.1%}" for name, share in shares)
        lines.append(f"  Best on this share of tokens: {each}.")
    for compared in report.divergence:
        lines += ["", f"Where is {compared.name} routed differently?"]
        lines += [f"  {line}" for line in of_comparison(compared, report.layers)]
        lines += ["", *_curve(compared, report.layers)]
    return "\n".join(lines)


def _table(found: Sharing) -> list[str]:
    """Losses, and differences to speaking with nothing shared."""
    width = max(12, *(len(each.name) + 2 for each in found.candidates))
    lines = [f"  {'':{width}}{'loss':>8}   difference to {found.reference}"]
    for each in found.candidates:
        loss = "none" if each.score is None else f"{each.score.loss:.4f}"
        change = each.against_none
        against = "" if change is None else sharing.told(change)
        lines.append(f"  {each.name:{width}}{loss:>8}   {against}".rstrip())
    return lines


BAR = 40
"""Characters of the longest bar."""


def _curve(compared: Compared, layers: list[str]) -> list[str]:
    """One line a block: its divergence as a bar and as a number."""
    values = compared.found.normalised
    most = max([value for value in values if value is not None], default=0.0)
    width = max(len(path) for path in layers) + 2
    lines = []
    for path, value in zip(layers, values, strict=True):
        if value is None:
            lines.append(f"  {path:{width}}entirely different")
            continue
        bar = "#" * round(BAR * value / most) if most else ""
        lines.append(f"  {path:{width}}{value:9.3g}  {bar}".rstrip())
    return lines
