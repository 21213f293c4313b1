"""Any file or folder: each file is read by the format that knows its content.

    FOLDER/**   every file, undivided; a file of text is one document
    FILE        what is in it, undivided; one document is cut at its blank lines

One file that cannot be read is a line of the report; only where nothing can be learnt
from is it an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from comigs_mlx import registry
from comigs_mlx.data import conversations, listing
from comigs_mlx.data.documents import child
from comigs_mlx.data.extras import NeedsExtra
from comigs_mlx.data.mac_access import reason
from comigs_mlx.data.pieces import (
    HEAD,
    Document,
    FileHead,
    Message,
    Piece,
    Placed,
    Skipped,
)
from comigs_mlx.data.reading import (
    SPLIT_NAMES,
    TEXT_ENDINGS,
    blocks,
    not_read,
)
from comigs_mlx.data.reading_options import DEFAULT, Reading
from comigs_mlx.data.reading_progress import Advance, ignore, with_progress
from comigs_mlx.data.reading_report import ReadingReport
from comigs_mlx.data.splits import RawSplits, Sample
from comigs_mlx.errors import ComigsError, DataError, line, raise_all

ORDER = 30
"""This source reads every file and folder that no other one claims."""


def matches(source: str) -> bool:
    """Tell whether `source` is a file or folder."""
    return os.path.exists(source)


def read(
    source: str, reading: Reading = DEFAULT, advance: Advance = ignore
) -> RawSplits:
    """Read a file, or all files of a folder.

    Raises:
        DataError: If there is nothing to learn from, or a folder cannot be listed; the
            text says what was left out and why.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return _read_folder(path, reading, advance)
        return _alone(path, reading)
    finally:
        child.CHILD.close()


def formats() -> list[ModuleType]:
    """Return all formats in the order in which they are tried."""
    found = [registry.load("format", name) for name in registry.names("format")]
    return sorted(found, key=lambda plugin: int(plugin.ORDER))


def head_of(path: Path) -> FileHead:
    """Read the beginning of a file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return FileHead(str(path), file.read(HEAD), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error


def format_of(file: FileHead, known: Iterable[ModuleType]) -> ModuleType | None:
    """Return the first format that claims a file; None where none does."""
    return next((plugin for plugin in known if plugin.matches(file)), None)


def _alone(path: Path, reading: Reading) -> RawSplits:
    """Read one file; what is wrong with it is the error."""
    plugin = format_of(head_of(path), formats())
    if plugin is None:
        if _is_zip(path):
            raise DataError(f"{path}: a zip archive: unpack it first")
        raise DataError(
            f"{path}: no format knows this file: expected a file ending in "
            f"{', '.join(TEXT_ENDINGS)}, or one that docs/formats.md lists"
        )
    pieces = list(plugin.read(path, reading))
    documents = [piece for piece in pieces if isinstance(piece, Document)]
    report = ReadingReport()
    _add(report, plugin.KIND, path, pieces)
    if len(documents) == 1:
        (whole,) = documents
        at = pieces.index(whole)
        parts = [Document(text, whole.place) for text in blocks(whole.text)]
        pieces[at : at + 1] = parts
    return _raw(path, pieces, report, [], reading)


def _read_folder(folder: Path, reading: Reading, advance: Advance) -> RawSplits:
    found, known, report = listing.listed(folder), formats(), ReadingReport()
    for what, count in found.skipped.items():
        report.skip(what, count)
    pieces: list[Piece] = []
    unknown: list[Path] = []
    for path in with_progress(found.files, "files", advance, len(found.files)):
        try:
            plugin = format_of(head_of(path), known)
            if plugin is None:
                if _is_zip(path):
                    report.skip("zip archives (unpack them first)", 1, str(path))
                else:
                    unknown.append(path)
                continue
            of_file = list(plugin.read(path, reading))
        except NeedsExtra as error:
            report.skip(error.what, 1, str(path))
        # A file is hostile or damaged in ways that nobody has listed; it ends nothing.
        except Exception as error:
            report.problems.append(_problem(path, error))
        else:
            _add(report, plugin.KIND, path, of_file)
            pieces += of_file
    notes = [*not_read(unknown), *_stray_splits(report.read, folder)]
    return _raw(folder, pieces, report, notes, reading)


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _problem(path: Path, error: Exception) -> str:
    """Write in one line why a file cannot be read."""
    if not isinstance(error, ComigsError):
        return f"{path}: {type(error).__name__}: {line(error)}"
    first, *more = str(error).splitlines() or [""]
    return f"{first} (and {len(more)} more)" if more else first


def _add(report: ReadingReport, kind: str, path: Path, pieces: list[Piece]) -> None:
    report.add_file(kind, str(path), pieces)
    if not pieces:
        report.skip("empty files", 1, str(path))


def _raw(
    source: Path,
    pieces: list[Piece],
    report: ReadingReport,
    notes: list[str],
    reading: Reading,
) -> RawSplits:
    """Turn pieces into samples, in order; conversations stand at the end.

    Raises:
        DataError: If there are none.
    """
    samples: list[Sample] = []
    for piece in pieces:
        if isinstance(piece, Document):
            samples.append(Placed({"text": piece.text}, piece.place))
        elif isinstance(piece, Placed):
            samples.append(piece)
    messages = [piece for piece in pieces if isinstance(piece, Message)]
    samples += _conversations(messages, report, reading)
    on_speakers = conversations.notes(messages, reading)
    notes = [*report.notes(), *on_speakers, *notes]
    if not samples and (source.is_dir() or report.problems):
        problem = (
            f"{source}: no text found: expected files ending in "
            f"{', '.join(TEXT_ENDINGS)}, or train.jsonl, or others of docs/formats.md"
        )
        raise_all(DataError, [problem, *notes])
    return RawSplits({"all": samples}, notes, report)


def _conversations(
    messages: list[Message], report: ReadingReport, reading: Reading
) -> Iterator[Sample]:
    report.me = conversations.mine(messages, reading)
    for sample in conversations.samples(messages, reading):
        if isinstance(sample, Skipped):
            report.add("", sample)
        else:
            yield sample


def _stray_splits(files: list[str], folder: Path) -> list[str]:
    """Note the files and folders that are named after a split but read as the rest."""
    paths = [Path(name).relative_to(folder) for name in files]
    notes = [
        f"{path.name} is read as an ordinary document, for there is no "
        f"train{path.suffix} beside it"
        for path in paths
        if len(path.parts) == 1
        and path.stem.lower() in SPLIT_NAMES
        and path.suffix.lower() in TEXT_ENDINGS
    ]
    tops = {path.parts[0] for path in paths if len(path.parts) > 1}
    stray = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    if stray:
        notes.append(
            f"the folders {', '.join(stray)} are read together and divided anew: give "
            "train.txt, valid.txt and test.txt to divide them yourself"
        )
    return notes
