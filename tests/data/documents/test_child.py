"""Hostile documents are refused one by one, and the child can do no harm."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from comigs_mlx.data.documents import child, worker
from comigs_mlx.data.documents.child import Child, parsed
from comigs_mlx.data.sources import files
from comigs_mlx.errors import DataError
from tests.data.documents import made

ROOT = Path(child.__file__).parents[1]
BOMB = made.archive({**made.docx_members(""), "word/x.xml": bytes(50_000_000)})
ENTITIES = "<!DOCTYPE a [<!ENTITY b 'x'><!ENTITY c '&b;&b;&b;'>]>"


def docx(part: str) -> bytes:
    return made.archive({**made.docx_members("x"), "word/document.xml": part})


def encrypted() -> bytes:
    return made.docx(["x"]).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02"
        b"\x14\x03\x14\x00\x01")  # fmt: skip


def many() -> bytes:
    return made.archive({f"{n}": "" for n in range(10_001)} | {"word/a.xml": ""})


HOSTILE = {
    "bomb.docx": (BOMB, "word/x.xml unpacks to .* times its size: the limit is 200"),
    "members.docx": (many, r"10,002 members: the limit is 10,000"),
    "dtd.docx": (docx(f"{ENTITIES}<a>&c;</a>"), "declares a document type"),
    "deep.docx": (docx("<a>" * 600 + "</a>" * 600), "nested more than 500 levels"),
    "cut.docx": (made.docx(["x" * 500])[:-100], "damaged archive"),
    "locked.docx": (encrypted, "it is encrypted"),
    "empty.epub": (made.archive({"mimetype": "application/epub+zip"}), "is missing"),
    "nested.epub": (made.archive({"a.zip": made.archive({"b": "c"})}), "is missing"),
    "pages.pdf": (lambda: made.pdf([[]] * 10_000), "10,000 pages: the limit is 5,000"),
    "cut.pdf": (made.pdf([["x"]])[:30], "damaged PDF"),
}


def test_hostile_documents_are_refused_one_by_one(write: Callable[..., Path]) -> None:
    made_files = {n: c() if callable(c) else c for n, (c, _) in HOSTILE.items()}
    folder = write({**made_files, "good.docx": made.docx(["Good."]), "a.txt": "Text."})
    found = files.read(str(folder))
    assert [s["text"] for s in found.splits["all"]] == ["Text.", "Good."]
    assert found.report is not None
    problems = dict(zip(sorted(HOSTILE), found.report.problems, strict=True))
    for name, line in problems.items():
        assert line.startswith(f"{folder}/{name}: "), line
        assert re.search(HOSTILE[name][1], line), line


def test_the_child_forbids_itself_network_programs_and_writing(tmp_path: Path) -> None:
    tries = [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('localhost', 1)",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.fork()",
        f"open({str(tmp_path / 'x')!r}, 'w')",
        f"import os; os.open({str(tmp_path / 'x')!r}, os.O_CREAT | os.O_WRONLY)",
    ]
    code = (
        "import sys, socket, subprocess; sys.path.insert(0, sys.argv[1])\n"
        "from documents import worker; worker.forbid()\n"
        f"for code in {tries!r}:\n"
        "    try: exec(code)\n"
        "    except PermissionError as error: print('forbidden' in str(error))\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "('mlx', 'comigs_mlx', 'numpy')))"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split("\n")[:-1] == ["True"] * len(tries) + ["[]"]


def test_the_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "HF_TOKEN" not in child.KEPT


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Child]:
    """(code) -> a child that runs `code` instead of the parser."""
    made: list[Child] = []

    def make(code: str) -> Child:
        monkeypatch.setattr(child, "START", f"import sys, time\n{code}")
        made.append(Child())
        return made[-1]

    yield make  # type: ignore[misc]
    for each in made:
        each.close()


def test_a_slow_child_is_given_up(
    fake: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(child, "SECONDS", 0.05)
    monkeypatch.setattr(child, "TICK", 0.01)
    slow = fake("time.sleep(60)")
    with pytest.raises(DataError, match=r"a\.pdf: given up after 0 seconds"):
        slow.ask("pdf", tmp_path / "a.pdf")
    assert slow._process is None


def test_a_child_that_grows_is_given_up(
    fake: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(child, "RESIDENT", 40_000_000)
    monkeypatch.setattr(child, "TICK", 0.01)
    large = fake("x = b'x' * 60_000_000; time.sleep(60)")
    with pytest.raises(DataError, match="given up: it takes more memory"):
        large.ask("pdf", tmp_path / "a.pdf")


def test_a_child_that_dies_costs_one_file(
    fake: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = child.START
    dying = fake("sys.stdin.readline(); sys.exit(7)")
    with pytest.raises(DataError, match=r"its parser ended .status 7."):
        dying.ask("pdf", tmp_path / "a.pdf")
    monkeypatch.setattr(child, "START", real)
    path = tmp_path / "a.pdf"
    path.write_bytes(made.pdf([["Alive."]]))
    assert dying.ask("pdf", path) == [("document", "Alive.", 0)]
    before = dying._process
    assert dying.ask("pdf", path) == [("document", "Alive.", 0)]
    assert dying._process is before


def test_too_large_files_and_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(made.pdf([["x"]]))
    monkeypatch.setitem(child.NEEDED, "pdf", ("no_such_package",))
    with pytest.raises(DataError, match=r"pip install 'comigs-mlx\[documents\]'"):
        list(parsed("pdf", "PDF files", path))
    (tmp_path / "a.txt").write_text("Text.")
    assert files.read(str(tmp_path)).notes == [
        "skipped 1 PDF file (pip install 'comigs-mlx[documents]')"
    ]
    monkeypatch.setattr(child, "SIZE", 10)
    with pytest.raises(DataError, match=r"bytes: the limit is 10"):
        list(parsed("pdf", "PDF files", path))


def test_answers_are_capped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In this process, without its limits."""
    monkeypatch.setattr(worker, "_allow_time", lambda: None)
    path = tmp_path / "a.pdf"
    path.write_bytes(made.pdf([["abcdef"]]))
    request = {"kind": "pdf", "path": str(path)}
    assert worker.answer(request) == {"pieces": [("document", "abcdef", 0)]}
    monkeypatch.setattr(worker, "CHARACTERS", 5)
    assert worker.answer(request) == {"error": "6 characters: the limit is 5"}


def test_one_book_alone_is_divided_by_chapters(write: Callable[..., Path]) -> None:
    book = made.epub([f"<p>Chapter {n}.</p><p>More.</p>" for n in range(5)])
    found = files.read(str(write({"a.epub": book}) / "a.epub"))
    assert [s["text"] for s in found.splits["all"]] == [
        f"Chapter {n}.\n\nMore." for n in range(5)
    ]
    assert found.report is not None
    assert found.report.documents["book"].count == 5
