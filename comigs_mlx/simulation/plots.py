"""Draws pictures of a simulation with matplotlib, where it is installed.

curves.png                   mean test loss of every method over the rounds
share-<method>.png           weight of every expert, by block and participant,
                             over the rounds
similarity-<method>.png      how alike all participants' experts are in the end

Of many participants, the pictures that have a row for each show the first ones.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comigs_mlx.files import replacing
from comigs_mlx.simulation.results_folder import ResultsFolder

DRAWN = 16
"""The most participants that a picture has a row for."""

RoundLine = Mapping[str, Any]


def available() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(folder: ResultsFolder, methods: Sequence[str], seeds: Sequence[int]) -> None:
    """Draw the files of a results folder; shares and similarity are of the first seed.

    Args:
        folder: The folder of the results.
        methods: The methods, in the order of the legend.
        seeds: The seeds of the simulation.
    """
    rounds = {
        name: [line for seed in seeds for line in folder.rounds(name, seed)]
        for name in methods
    }
    _curves(folder.path, rounds)
    for name in methods:
        lines = [line for line in rounds[name] if line["seed"] == seeds[0]]
        if any(line["layer_share"] for line in lines):
            _shares(folder.path, name, [line for line in lines if line["layer_share"]])
        outcome = folder.outcome(name, seeds[0])
        if outcome is not None and any(line["test_loss"] for line in lines):
            _similarity(folder.path, name, outcome.similarity)


def curve(rounds: Sequence[RoundLine]) -> tuple[list[int], list[float]]:
    """Return the rounds that were measured, and the mean over participants and
    seeds.
    """
    losses_of: dict[int, list[float]] = {}
    for line in rounds:
        if line["test_loss"]:
            losses = losses_of.setdefault(line["round"], [])
            losses.append(statistics.fmean(line["test_loss"].values()))
    return sorted(losses_of), [
        statistics.fmean(losses_of[r]) for r in sorted(losses_of)
    ]


def _curves(folder: Path, rounds: Mapping[str, Sequence[RoundLine]]) -> None:
    figure = _figure(8, 4.5)
    axes = figure.add_subplot()
    curves = {name: curve(lines) for name, lines in rounds.items()}
    measured = {name: (x, y) for name, (x, y) in curves.items() if x}
    by_last = sorted(measured, key=lambda name: measured[name][1][-1], reverse=True)
    for number, name in enumerate(by_last):
        style = ("-", "--", ":")[number // 10 % 3]
        axes.plot(*measured[name], style, marker="o", markersize=3, label=name)
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("test loss, nats per token (mean of participants)")
    if measured:
        figure.legend(fontsize=7, loc="outside center right")
    _save(figure, folder / "curves.png")


def _shares(folder: Path, name: str, rounds: Sequence[RoundLine]) -> None:
    """Draw a row a participant, a column an expert; blocks upward, rounds to the
    right.
    """
    participants = list(rounds[-1]["layer_share"])[:DRAWN]
    most = max(len(rounds[-1]["layer_share"][p][0]) for p in participants)
    figure = _figure(1 + 2.4 * most, 0.6 + 1.6 * len(participants))
    grid = figure.subplots(len(participants), most, squeeze=False)
    for row, participant in zip(grid, participants, strict=True):
        labels = list(rounds[-1]["expert_share"].get(participant, {}))
        for expert, axes in enumerate(row):
            shares = [r["layer_share"][participant] for r in rounds]
            if expert >= len(shares[0][0]):
                axes.set_axis_off()
                continue
            values = [
                [by_block[block][expert] for by_block in shares]
                for block in range(len(shares[0]))
            ]
            image = axes.imshow(values, origin="lower", aspect="auto", vmin=0, vmax=1)
            axes.set_xticks(
                range(len(rounds)), [r["round"] for r in rounds], fontsize=6
            )
            blocks = range(0, len(values), max(1, len(values) // 6))
            axes.set_yticks(blocks, blocks, fontsize=6)
            title = labels[expert] if expert < len(labels) else str(expert)
            axes.set_title(f"{participant}: {title}", fontsize=7)
    figure.supxlabel("round", fontsize=8)
    figure.supylabel("block", fontsize=8)
    figure.colorbar(image, ax=grid.ravel().tolist(), label="weight")
    _save(figure, folder / f"share-{name}.png")


def _similarity(folder: Path, name: str, alike: Mapping[str, Any]) -> None:
    labels = alike["experts"]
    figure = _figure(2.5 + 0.4 * len(labels), 2 + 0.4 * len(labels))
    axes = figure.add_subplot()
    image = axes.imshow(alike["cosines"], vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    figure.colorbar(image, ax=axes, label="cosine of A B")
    _save(figure, folder / f"similarity-{name}.png")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _save(figure: Any, file: Path) -> None:
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png")
