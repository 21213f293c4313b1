"""RUN/.train.told.json: what a training tells the program that started it; no MLX.

    {"format_version": 1, "notes": ["..."], "done": false, "problem": null, "kind": ""}

`notes` are what its user should know. At the end, `done` says whether it came to its
end, `problem` what was wrong where it can say so, and `kind` what that is about. Only a
training that was started in the background (`runs.process`) writes the file, where it
is told by the environment: then the folder is its own even before the run is begun.
Nothing parses what it prints.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from comigs_mlx import json_files
from comigs_mlx.errors import kind_of
from comigs_mlx.messages import Note, Say
from comigs_mlx.runs.progress import replace_unflushed

FILE = ".train.told.json"
ENVIRONMENT = "COMIGS_TRAIN_TOLD"
"""The variable that holds the file's path."""


@dataclass
class Told:
    """The content of the file.

    Attributes:
        notes: The sentences that the user should know.
        done: Whether the training came to its end.
        problem: The reason why it did not, in a sentence; None where it said none.
        kind: The word for what the problem is about, of `errors.kind_of`.
    """

    notes: list[str] = field(default_factory=list)
    done: bool = False
    problem: str | None = None
    kind: str = ""


@contextlib.contextmanager
def telling(
    say: Say, explain: Callable[[Exception], str | None]
) -> Iterator[Callable[[str], None]]:
    """Tell the starter of this process, if there is one, how the block goes.

    Args:
        say: It is told every sentence.
        explain: It gives the sentence for an error, or None for one of this program.

    Yields:
        What stands in for `say`: it keeps the notes among the sentences.
    """
    place = os.environ.get(ENVIRONMENT)
    file, told = Path(place) if place else None, Told()

    def keep(sentence: str) -> None:
        say(sentence)
        if isinstance(sentence, Note):
            told.notes.append(sentence.sentence)
            _write(file, told)

    try:
        yield keep
        told.done = True
    except Exception as error:
        told.problem, told.kind = explain(error), kind_of(error)
        raise
    finally:
        _write(file, told)


def read(run: Path) -> Told | None:
    """What a training told; None where there is nothing that can be read."""
    if not (found := json_files.known(run / FILE)):
        return None
    try:
        notes = [str(note) for note in found.get("notes") or []]
        problem = found.get("problem")
        done, about = found.get("done") is True, str(found.get("kind") or "")
        return Told(notes, done, problem and str(problem), about)
    except TypeError:
        return None


def _write(file: Path | None, told: Told) -> None:
    if file is not None:
        replace_unflushed(file, {"format_version": 1, **asdict(told)})
