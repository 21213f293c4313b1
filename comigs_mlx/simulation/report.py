"""Writes the numbers of a simulation as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

COLUMNS = 16
"""The most participants that the table has a column for; results.csv has all."""


def markdown(results: Mapping[str, Any]) -> str:
    """Write results.md: one table, and what it was measured with."""
    methods, config = results["methods"], results["config"]
    participants = _participants(methods)
    if len(participants) > COLUMNS:
        participants = []
    head = [
        "method",
        *participants,
        "mean",
        "std",
        "by tokens",
        "to local",
        "95 % interval",
    ]
    head += ["MB/round", "seconds"]
    rows = [_row(name, numbers, participants) for name, numbers in methods.items()]
    lines = [
        "# Test perplexity",
        "",
        f"{config['rounds']} rounds of {config['local_steps']} steps, batches of "
        f"{config['batch_size']} x {config['seq_len']} tokens, rank {config['rank']}, "
        f"base model {config['model']}.",
        "Mean: over participants, then over seeds; std: over seeds; to local: mean "
        "paired difference, with a bootstrap interval over participants and seeds.",
        "",
        _line(head),
        _line(["---", *["---:"] * (len(head) - 1)]),
        *map(_line, rows),
        "",
        *_selections(methods),
        "Seeds: "
        + "; ".join(f"{n} {_list(numbers['seeds'])}" for n, numbers in methods.items()),
        "",
        "Environment: "
        + ", ".join(f"{k} {v}" for k, v in results["environment"].items()),
    ]
    return "\n".join(lines) + "\n"


def _selections(methods: Mapping[str, Any]) -> list[str]:
    """Write the table of who speaks alone, where it was measured."""
    measured = {
        name: numbers["by_selection"]
        for name, numbers in methods.items()
        if "by_selection" in numbers
    }
    names = list(dict.fromkeys(name for each in measured.values() for name in each))
    if not names:
        return []
    rows = [
        [name, *(f"{each[n]:.2f}" if n in each else "" for n in names)]
        for name, each in measured.items()
    ]
    return [
        "Mean perplexity by who speaks; oracle: the best single expert at each token.",
        "",
        _line(["method", *names]),
        _line(["---", *["---:"] * len(names)]),
        *map(_line, rows),
        "",
    ]


def comma_separated(results: Mapping[str, Any]) -> str:
    """Write results.csv: one row for each method and participant, and its mean."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "participant", "perplexity", "loss", "test_tokens"])
    for name, numbers in results["methods"].items():
        perplexity, loss = numbers["perplexity"], numbers["loss"]
        for participant, value in perplexity["per_participant"].items():
            tokens = numbers["test_tokens"][participant]
            participant_loss = loss["per_participant"][participant]
            writer.writerow([name, participant, value, participant_loss, tokens])
        tokens = sum(numbers["test_tokens"].values())
        writer.writerow([name, "mean", perplexity["mean"], loss["mean"], tokens])
    return out.getvalue()


def _participants(methods: Mapping[str, Any]) -> list[str]:
    first = next(iter(methods.values()))
    return list(first["perplexity"]["per_participant"])


def _row(name: str, numbers: Mapping[str, Any], participants: list[str]) -> list[str]:
    perplexity, to_local = numbers["perplexity"], numbers["difference_to_local"]
    row = [name, *(f"{perplexity['per_participant'][p]:.2f}" for p in participants)]
    row += [f"{perplexity[key]:.2f}" for key in ("mean", "std", "token_weighted_mean")]
    if to_local is None:
        row += ["", ""]
    else:
        ends = to_local["ci95"]
        row.append(f"{to_local['mean']:+.2f}")
        row.append("" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}")
    return [
        *row,
        f"{numbers['bytes_per_round'] / 1e6:.2f}",
        f"{numbers['seconds']:.0f}",
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
