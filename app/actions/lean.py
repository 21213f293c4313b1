"""The lean of a run: found on its own held-out text, while the page goes on."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ComigsError
from comigs_mlx.expert_shape import ExpertShape
from comigs_mlx.inference.replies import Progress, Stopped
from comigs_mlx.runs import description
from comigs_mlx.runs.place import Place

from ..model_queue import ModelQueue, explain
from ..remedies import Mendable
from . import runs

FIND = "Find the best"
READS = "scoring"
"""What the engine calls the part of the work that takes its time."""


@dataclass
class Search:
    """A search under way, or the last one.

    Attributes:
        run: Its name.
        stop: Ends it early.
        share: How much of it is done, 0 to 1; None before its first part.
        found: What becomes of it.
    """

    run: str
    stop: threading.Event = field(default_factory=threading.Event)
    share: float | None = None
    found: Future[Any] | None = None

    def listen(self, progress: Progress) -> None:
        """Take note of how far it is."""
        if progress.what == READS:
            self.share = progress.done / max(progress.total, 1)


@dataclass(frozen=True)
class Sought:
    """How the search stands.

    Attributes:
        label: What its button says.
        running: Whether it goes on.
        lean: What was found for the run that is asked about; None where nothing was.
        text: The same in a sentence, or why nothing was found.
    """

    label: str = FIND
    running: bool = False
    lean: float | None = None
    text: str = ""


class LeanActions:
    """What the button beside the lean does.

    Args:
        model_queue: Has the engine.
        folder: Holds the runs.
    """

    def __init__(self, model_queue: ModelQueue, folder: Path):
        self.model_queue, self.folder = model_queue, folder
        self._search: Search | None = None
        self._lock = threading.Lock()

    def allowed(self, run: Any) -> bool:
        """Whether a run has two sides to lean to."""
        try:
            path = runs.find(self.folder, run)
            if path is None:
                return False
            shape = ExpertShape.from_json(description.read(Place(path).info))
            return bool(shape.generalists and shape.specialists)
        except ComigsError:
            return False

    def press(self, run: Any) -> Sought:
        """Begin to look for a run's best lean, or end the search that goes on.

        Raises:
            Mendable: If nobody is chosen.
        """
        with self._lock:
            if self._running():
                assert self._search is not None
                self._search.stop.set()
            else:
                self._begin(run)
        return self.sought(run)

    def _begin(self, run: Any) -> None:
        path = runs.find(self.folder, run)
        if path is None:
            raise Mendable("Choose a model of yours first.", "who")
        search = self._search = Search(path.name)

        def work(engine: Any) -> Any:
            watched = {"stop": search.stop.is_set, "listen": search.listen}
            info = engine.choose(path, **watched)
            return engine.calibrate_lean(info=info, **watched)

        search.found = self.model_queue.submit("Finding the best lean", work)

    def _running(self) -> bool:
        search = self._search
        return search is not None and not (search.found and search.found.done())

    def sought(self, run: Any) -> Sought:
        """How the search stands, for a page on which a run is chosen."""
        search = self._search
        if search is None or search.found is None:
            return Sought()
        if not search.found.done():
            share = "…" if search.share is None else f"{search.share:.0%}"
            return Sought(f"Stop ({share.replace('%', ' %')})", True)
        if search.found.cancelled():
            return Sought()
        error = search.found.exception()
        if isinstance(error, Stopped):
            return Sought()
        if error is not None:
            return Sought(text=explain(error))
        kept = search.found.result()
        return Sought(
            lean=kept.lean if search.run == run else None, text=told(kept, search.run)
        )


def told(kept: Any, name: str) -> str:
    """What was found, in a sentence or two."""
    if not kept.lean:
        return "Even is best: on your held-out text, leaning to no side helps."
    side = "you" if kept.lean > 0 else "everyone"
    # Perplexity, e to the loss, as everywhere on the page.
    better = f"{-100 * math.expm1(kept.loss - kept.loss_without):.1f} %"
    return (
        f"Best with a lean of {abs(kept.lean):g} to {side}: your held-out text "
        f"surprises it {better} less. It is kept with “{name}”."
    )
