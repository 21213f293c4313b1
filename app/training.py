"""How a training stands, as HTML: progress, gain, last report, log, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from comigs_mlx.runs.gain import Gain

from . import curves, render, words
from .remedies import IN_A_TRAINING

SHOWN_LINES = 12
"""Lines of the log on the page."""

LEAST_LOSS = 0.5
"""Nats that the axis of losses spans at least: less is the noise of batches."""


def card(
    name: str,
    state: Any,
    metrics: Sequence[dict[str, Any]],
    gained: Gain | None = None,
) -> str:
    """How far a training is, what it brought so far, and what is wrong: HTML.

    Args:
        name: Of the run.
        state: Of its process.
        metrics: Its reports.
        gained: What it has gained, measured at its end.
    """
    parts = [f'<h3 class="cm-headline">{render.escape(title(name, state))}</h3>']
    if state.progress is not None:
        done, total = state.progress
        text = f"{done} of {total} steps"
        if state.running and state.eta_seconds is not None:
            text += f", {render.duration(state.eta_seconds)} left"
        parts.append(render.bar(done, total, text))
    if state.problem is not None:
        remedy = IN_A_TRAINING.get(state.kind, "")
        parts.append(render.problem(words.page(state.problem), remedy))
    elif state.running:
        parts.append(render.note(under_way(state)))
    over = gained is not None and not state.running
    sentence = against_base(gained) if over and gained else gain(metrics)
    if sentence is not None:
        parts.append(render.note(sentence))
    remarks = map(render.escape, notes(state.notes))
    parts += [f'<p class="cm-training-remark">{text}</p>' for text in remarks]
    return "".join(parts)


def against_base(gained: Gain) -> str:
    """What a training brought, on text that nothing has learnt from."""
    before, after = gained.perplexities
    numbers = f"({before:.3g} without it, {after:.3g} with it: lower is better)"
    if gained.better <= 0:
        return f"It has not learnt to foresee your text any better {numbers}."
    share = f"{gained.better:.0%}".replace("%", " %")
    return f"Your text that it has never seen surprises it {share} less {numbers}."


def title(name: str, state: Any) -> str:
    """A training in a few words."""
    if state.running:
        waits = state.paused is not None
        return f"{name} waits" if waits else f"{name} is learning"
    done, total = state.progress or (0, 1)
    if state.problem is not None or not done:
        return f"{name} has stopped"
    return f"{name} has learnt" if done >= total else f"{name} has learnt a part"


def under_way(state: Any) -> str:
    """What goes on in a process that trains."""
    if state.stopping:
        return "Stopping after this step; what was learned is saved."
    if state.paused is not None:
        return f"Saved and {state.paused}. It goes on by itself."
    if state.progress is None or not state.progress[0]:
        return "Getting ready. It goes on when this page is closed."
    return "It goes on when this page is closed."


def gain(metrics: Sequence[dict[str, Any]]) -> str | None:
    """What was gained on text that is kept aside; None before it is measured twice.

    Perplexity, e to the loss, is between how many tokens the next one seems drawn.
    """
    losses = [m["valid_loss"] for m in metrics if m.get("valid_loss") is not None]
    losses = [loss for loss in losses if math.isfinite(loss)]
    if len(losses) < 2:
        return None
    first, last = (math.exp(min(loss, 50.0)) for loss in (losses[0], losses[-1]))
    if last >= first:
        return (
            "Your text that is kept aside surprises it no less than at the beginning "
            f"({first:.3g}, now {last:.3g})."
        )
    share = f"{1 - last / first:.0%}".replace("%", " %")
    return (
        f"Your text that is kept aside surprises it {share} less than "
        f"at the beginning ({first:.3g}, now {last:.3g}: lower is better)."
    )


def log(state: Any) -> str:
    """The last lines that a training printed."""
    lines = "\n".join(state.lines[-SHOWN_LINES:])
    if not lines:
        return ""
    return (
        '<pre class="cm-log-lines" tabindex="0" role="region" aria-label="Log">'
        f"{render.escape(lines)}</pre>"
    )


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
    last = render.facts(latest(metrics[-1]), "Last report") if metrics else ""
    return (
        last
        + curves.chart("Loss", losses, "step", "nats per token", least=LEAST_LOSS)
        + curves.chart("Expert shares", shares, "step", "%", bounds=(0.0, 100.0))
    )
