"""How a training stands, as HTML: progress, last report, log, curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import curves, render, words

SHOWN_LINES = 12
"""Lines of the log on the page."""

LEAST_LOSS = 0.5
"""Nats that the axis of losses spans at least: less is the noise of batches."""


def progress(state: Any, metrics: Sequence[dict[str, Any]]) -> str:
    """A training's state as HTML."""
    parts = []
    if state.progress is not None:
        done, total = state.progress
        text = f"{done} of {total} steps"
        if state.running and state.eta_seconds is not None:
            text += f", {render.duration(state.eta_seconds)} left"
        parts.append(render.bar(done, total, text))
    if state.problem is not None:
        parts.append(render.problem(words.page(state.problem)))
    elif state.running:
        stopping = "Stopping after this step; what was learned is saved."
        running = "Training. It goes on when this page is closed."
        parts.append(render.note(stopping if state.stopping else running))
    else:
        parts.append(render.note("Not training."))
    parts += [render.problem(text) for text in notes(state.notes)]
    if metrics:
        parts.append(render.facts(latest(metrics[-1]), "Last report"))
    lines = "\n".join(state.lines[-SHOWN_LINES:])
    if lines:
        parts.append(
            f'<details><summary>Log</summary><pre class="cm-log-lines" tabindex="0" '
            f'aria-label="Log">{render.escape(lines)}</pre></details>'
        )
    return "".join(parts)


def notes(told: Sequence[str]) -> list[str]:
    """What a training remarked about itself, in the page's words, each once."""
    return [words.page(text[:1].upper() + text[1:]) for text in dict.fromkeys(told)]


def latest(report: dict[str, Any]) -> dict[str, str]:
    """The last report in names and values for people."""
    values = {
        "step": str(report["step"]),
        "training loss": f"{report['train_loss']:.3f}",
    }
    for key, name in (
        ("router_loss", "router loss"),
        ("valid_loss", "validation loss"),
    ):
        if report.get(key) is not None:
            values[name] = f"{report[key]:.3f}"
    values["speed"] = f"{report['tokens_per_second']:.0f} tokens/s"
    values["peak memory"] = f"{report['peak_memory_gb']:.2f} GB"
    return values


def drawn(metrics: Sequence[dict[str, Any]]) -> str:
    """Loss curves and expert shares as HTML."""
    losses = {
        name: [(m["step"], m[key]) for m in metrics if m.get(key) is not None]
        for name, key in (
            ("experts (training text)", "train_loss"),
            ("router (validation text)", "router_loss"),
            ("validation", "valid_loss"),
        )
    }
    experts = dict.fromkeys(e for m in metrics for e in m.get("expert_share", {}))
    shares = {
        name: [(m["step"], 100 * m["expert_share"].get(name, 0.0)) for m in metrics]
        for name in experts
    }
    return curves.chart(
        "Loss", losses, "step", "nats per token", least=LEAST_LOSS
    ) + curves.chart("Expert shares", shares, "step", "%", bounds=(0.0, 100.0))
