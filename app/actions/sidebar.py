"""The sidebar: who can be talked to, what was said, and what is learning now."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from comigs_mlx.runs import gain, process
from comigs_mlx.runs.listing import RunEntry
from comigs_mlx.runs.place import value_files

from .. import words
from ..render import duration
from . import runs


class SidebarActions:
    """What the sidebar shows.

    Args:
        folder: Holds the runs.
        model: Base model where no run is chosen.
        store: Keeps the conversations.
        standing: Tells how the model stands: `state` and `text`.
        listed: Gives the runs; None: as they are in the folder each time.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        store: Any,
        standing: Any,
        listed: Callable[[], list[RunEntry]] | None = None,
    ):
        self.folder, self.model = folder, model
        self.store, self._standing = store, standing
        self._listed = listed or (lambda: runs.entries(folder))

    def state(self, question: Any) -> dict[str, Any]:
        """What the sidebar shows.

        Args:
            question: `query`, what is searched for, and `known`, the mark of what the
                page has.

        Returns:
            `standing` and `mark`; and unless that is the one that is known, `who`,
            `days`, `training`, `keeping` and `notice`.
        """
        entries = self._listed()
        store = self.store
        shown = {
            "who": [*map(card, sorted(entries, key=_newest)), self._base()],
            "days": by_day(store.listed(str(question.get("query") or "")[:200])),
            "training": [learning(e.path) for e in entries if e.training],
            "keeping": store.keeping,
            "notice": store.problem,
        }
        mark = hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
        told = {"standing": self._standing(), "mark": mark}
        return told if question.get("known") == mark else {**told, **shown}

    def _base(self) -> dict[str, Any]:
        about = f"{Path(self.model).name}, as it comes"
        title = "Untrained model"
        return {"name": runs.BASE, "title": title, "lines": [about], "state": "base"}


def _newest(entry: RunEntry) -> tuple[bool, float]:
    return entry.problem is not None, -changed(entry.path)


def changed(run: Path) -> float:
    """When the experts of a run were saved, in seconds since 1970; 0 if never."""
    times = [file.stat().st_mtime for file in value_files(run, 1) if file.is_file()]
    return max(times, default=0.0)


def card(entry: RunEntry) -> dict[str, Any]:
    """A run as the page shows it: `name`, `title`, `lines` and `state`."""
    told, state = [], "ready"
    if entry.problem is not None and not entry.training:
        told, state = [words.page(entry.problem)], "broken"
    elif entry.step is None:
        told, state = ["learning for the first time"], "new"
    else:
        told = [f"learnt {day(changed(entry.path))}, {entry.step:,} steps"]
        gained = gain.read(entry.path)
        if gained is not None:
            told.append(better(gained))
        if entry.training:
            state = "learning"
    return {"name": entry.name, "title": entry.name, "lines": told, "state": state}


def better(gained: gain.Gain) -> str:
    """How much a run predicts its owner's text better than before, in words."""
    change = round(100 * gained.better)
    if change == 0:
        return "no better than before on your text"
    kind = "better" if change > 0 else "worse"
    return f"{abs(change)} % {kind} than before on your text"


def learning(run: Path) -> dict[str, Any]:
    """A training as a line: `name`, `done` from 0 to 1, and `text`."""
    state = process.state(run)
    done, total = state.progress or (0, 0)
    parts = [f"{run.name} is learning"]
    if total:
        parts.append(f"{done / total:.0%}".replace("%", " %"))
    if state.paused is not None:
        parts.append("paused")
    elif state.eta_seconds is not None:
        parts.append(f"{duration(state.eta_seconds)} left")
    share = done / total if total else 0.0
    return {"name": run.name, "done": round(share, 3), "text": ", ".join(parts)}


def by_day(chats: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Conversations under the days on which they went on, newest first.

    Args:
        chats: `id`, `title`, `changed` (seconds since 1970), `kept` (whether it is a
            file) and `excerpt` (of what was searched for) of each, newest first.

    Returns:
        `day`, such as "Today", and its `chats`, each with all but the time.
    """
    days: list[dict[str, Any]] = []
    for chat in chats:
        name = day(chat["changed"])
        name = name[:1].upper() + name[1:]
        if not days or days[-1]["day"] != name:
            days.append({"day": name, "chats": []})
        told = ("id", "title", "kept", "excerpt")
        days[-1]["chats"].append({name: chat[name] for name in told})
    return days


def day(when: float, now: float | None = None) -> str:
    """A day in words: "today", "yesterday", "Monday", "3 May", "3 May 2025"."""
    then = datetime.fromtimestamp(when).date()
    today = date.fromtimestamp(time.time() if now is None else now)
    ago = (today - then).days
    if ago in (0, 1):
        return ("today", "yesterday")[ago]
    if 1 < ago < 7:
        return f"{then:%A}"
    text = f"{then.day} {then:%B}"
    return text if then.year == today.year else f"{text} {then.year}"
