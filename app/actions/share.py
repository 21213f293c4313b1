"""The Share tab: how a federation stands, what would leave, and the buttons."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from comigs_mlx.errors import ConfigError, FederationError
from comigs_mlx.federation import api
from comigs_mlx.federation.exchanges.base import Exchange
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.formats.strict_json import visible
from comigs_mlx.federation.participant import membership
from comigs_mlx.federation.rounds import status
from comigs_mlx.inference.worker import Worker
from comigs_mlx.model.licence import Licence
from comigs_mlx.runs import listing

from .. import curves, render, words
from . import runs

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds to go on trying for, while somebody waits before the page."""


class ShareActions:
    """What the Share tab does.

    Args:
        folder: Holds the runs.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._worker = Worker()
        weakref.finalize(self, self._worker.close)

    def _on_desk(self, act: Callable[..., T], *given: Any) -> T:
        """Do it on one thread of our own, one after the other.

        MLX's streams belong to the thread that made them, and the page's threads come
        and go.
        """
        return self._worker.call(lambda: act(*given))

    def status(self, uri: Any) -> str:
        """How a federation stands: HTML."""
        return overview(self._on_desk(api.overview, opened(uri)))

    def leaving(self, run: Any, uri: Any, name: Any) -> tuple[str, str]:
        """What a push would send: HTML, and a digest that push asks for."""
        values = self._on_desk(
            api.leaving, self._run(run), opened(uri), participant(name)
        )
        return would_leave(values), digest(values)

    def push(self, run: Any, uri: Any, name: Any, shown: Any) -> str:
        """Send exactly what was shown; returns a sentence.

        Raises:
            ComigsError: If it was not shown, or has changed since.
        """
        folder, where, who = self._run(run), opened(uri), participant(name)
        if digest(self._on_desk(api.leaving, folder, where, who)) != shown:
            raise FederationError("What would leave has changed: look at it again.")
        result = self._on_desk(api.push, folder, where, who)
        text = f"Contributed to round {result['round']} as {who}."
        return text + (" The round is closed: pull." if result.get("closed") else "")

    def replaced(self, run: Any, uri: Any) -> str:
        """What a pull would take from a run, in a sentence; empty for nothing.

        A run that comes from elsewhere has a generalist of its own, which the
        federation does not know.
        """
        folder, where = self._run(run), opened(uri)
        record = membership.read(folder)
        step = listing.entry(folder).step or 0
        known = None if record is None else record.uri
        if step == 0 or known == membership.place(where.uri):
            return ""
        by = f"{step} steps" if known is None else f"{step} steps and in {known}"
        return (
            f"{folder.name} has a generalist of its own, learnt in {by}. A pull puts "
            "the federation's in its place: answers by the generalist or the mixture "
            "change at once. Its own is kept: Kept generalist has it then. Press Pull "
            "again to go on."
        )

    def pull(self, run: Any, uri: Any, name: Any, sure: bool = False) -> str:
        """Fetch the newest generalist into a run.

        Args:
            run: Its name.
            uri: Of the federation.
            name: Of the participant.
            sure: Whether it was said what would be replaced.

        Returns:
            What was done, or what would be replaced; nothing has been changed then.
        """
        folder = self._run(run)
        if not sure and (question := self.replaced(run, uri)):
            return question
        where, record = opened(uri), membership.read(folder)
        known = record is not None and record.uri == membership.place(where.uri)
        # A run that mixed its own generalists, in a terminal, goes on to do so.
        how = record.personal if record is not None and known else None
        act = functools.partial(api.pull, personal=how)
        pulled = self._on_desk(act, folder, where, participant(name))
        what = "has the newest generalist now" if pulled.changed else "is up to date"
        return f"{folder.name} {what}."

    def close(self, uri: Any) -> str:
        """Close the open round where it is due; returns a sentence."""
        done = self._on_desk(api.close, opened(uri))
        end = "is closed: pull." if done.closed else "is not due yet."
        told = [status.proposal(one) for one in done.proposals]
        return " ".join([*(f"{line}." for line in told), f"Round {done.round} {end}"])

    def roll_back(self, run: Any, number: Any) -> str:
        """Go back to an earlier generalist; returns a sentence."""
        folder = self._run(run)
        names = api.kept_as(folder)
        if number not in names:
            raise ConfigError("Choose a generalist that is kept on this device.")
        self._on_desk(api.roll_back, folder, number)
        return f"{folder.name} has the generalist of {names[number]} again."

    def kept(self, run: Any) -> list[int]:
        """Generalists kept on this device: own ones below 0, then rounds."""
        return list(self.kept_as(run))

    def kept_as(self, run: Any) -> dict[int, str]:
        """Each of `kept` with what it is, for people."""
        path = runs.find(self.folder, run)
        return {} if path is None else api.kept_as(path)

    def history(self, run: Any) -> str:
        """Perplexity by round: HTML."""
        path = runs.find(self.folder, run)
        return by_round([] if path is None else api.history(path))

    def _run(self, name: Any) -> Path:
        path = runs.find(self.folder, name)
        if path is None:
            raise ConfigError(
                "Choose a run: the base model alone has nothing to share."
            )
        return path


def opened(uri: Any) -> Exchange:
    """The exchange of a federation; nothing is asked yet.

    Raises:
        ComigsError: If nothing is given, or it is no address.
    """
    text = str(uri or "").strip()
    if not text:
        raise ConfigError("Say where the federation is: hf://owner/name, or a folder.")
    return open_exchange(text, patience=PATIENCE)


def participant(name: Any) -> str:
    """A participant's name.

    Raises:
        ConfigError: If nothing is given.
    """
    text = str(name or "").strip()
    if not text:
        raise ConfigError("Say who you are: your name in the federation.")
    return text


def digest(values: Mapping[str, Any]) -> str:
    """A short name of exactly these values, whenever they are made."""
    timeless = {k: v for k, v in values.items() if k != "created"}
    text = json.dumps(timeless, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


UNABLE = "This version cannot close the round: "
"""What is said of a federation whose aggregator this version does not have."""


def overview(values: Mapping[str, Any]) -> str:
    """A federation's status as HTML."""
    manifest, last, sizes = values["manifest"], values["round"], values["bytes"]
    facts = {
        "round closed": last["round"],
        "round open": f"{values['open_round']}{', due' if values['due'] else ''}",
        "base model": visible(manifest["base_model"]["id"]),
        "quorum": manifest["quorum"],
        "aggregator": manifest["aggregator"]["name"],
        "last contributors": ", ".join(last["contributors"]) or "nobody yet",
        "repository": render.size(sizes["repository"]),
    }
    rows = [(name, *fate(one)) for name, one in values["contributions"].items()]
    head = ("participant", "fate", "reason", "privacy spent", "size")
    caption = f"Contributions to round {values['open_round']}"
    offered = [
        (str(one["number"]), status.proposal(one)) for one in values["proposals"]
    ]
    problem = values["problem"]
    return (
        ("" if problem is None else render.problem(words.page(UNABLE + problem)))
        + render.facts(facts, "Federation")
        + render.table(head, rows, caption)
        + (render.table(("number", "fate"), offered, "Proposals") if offered else "")
    )


def fate(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What becomes of a contribution: fate, reason, privacy spent, size."""
    reason = one["reason"] or ""
    if one["clipped"] is not None:
        reason = f"clipped to {one['clipped']:.0%} {reason}".strip()
    return (
        "accepted" if one["accepted"] else "refused",
        reason,
        status.epsilon(one["privacy"]) if one["privacy"] else "no noise",
        render.size(one["bytes"]),
    )


def would_leave(values: Mapping[str, Any]) -> str:
    """Everything a push would send, as HTML: files, fields, tensors."""
    files = [(name, f"{size:,}") for name, size in values["files"].items()]
    fields = flat(values.get("contribution.json", {}))
    tensors = [
        (file, name, f"{size:,}")
        for file, inner in values["tensors"].items()
        for name, size in inner.items()
    ]
    total = sum(values["files"].values())
    idle = _counted(values) == 0
    remark = render.problem(IDLE) if idle else ""
    if (licence := values.get("base_license")) is not None:
        remark += "".join(render.note(f"{duty}.") for duty in Licence(licence).duties)
    return remark + (
        render.note(f"{render.size(total)} would leave this machine, and nothing else.")
        + render.table(("file", "bytes"), files, "Files")
        + render.table(("field", "value"), fields, "Every field of contribution.json")
        + render.table(("file", "tensor", "numbers"), tensors, "Every tensor")
    )


IDLE = (
    "This run has not been trained since the last pull: it would contribute nothing of "
    "its own (0 steps), and yet count as one of those who took part. Train it first."
)
"""What is said before a contribution that has learnt nothing."""


def _counted(values: Mapping[str, Any]) -> Any:
    """The training steps behind a contribution; None where they are not told."""
    counters = values.get("contribution.json", {}).get("counters", {})
    return counters.get("steps") if isinstance(counters, Mapping) else None


def flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as paths and texts."""
    if isinstance(value, Mapping) and value:
        inner = [(f"{path}.{k}" if path else str(k), v) for k, v in value.items()]
        return [row for key, one in inner for row in flat(one, key)]
    return [(path, json.dumps(value, default=str))]


def by_round(rounds: Sequence[Mapping[str, Any]]) -> str:
    """A history of rounds as a plot of perplexities."""
    lines = {
        name: [
            (r["round"], math.exp(min(r[key], 50.0))) for r in rounds if _has(r, key)
        ]
        for name, key in (("validation", "valid_loss"), ("test", "test_loss"))
    }
    values = [value for points in lines.values() for _, value in points]
    return curves.chart(
        "Perplexity by round",
        lines,
        "round",
        "perplexity",
        least=max(values, default=0.0) / 10,
    )


def _has(one: Mapping[str, Any], key: str) -> bool:
    return isinstance(one.get(key), (int, float)) and isinstance(one.get("round"), int)
