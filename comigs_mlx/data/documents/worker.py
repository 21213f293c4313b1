"""The child that parses documents: limits itself, then answers one request a line.

A request is {"kind": "pdf", "path": "..."}; the answer is {"pieces": [...]} or
{"error": "..."}.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from .archive import Refused

MEMORY = 3 << 30
"""The most address space, in bytes; libraries map more than they use."""

SECONDS = 60
"""The most processor time for a file, in seconds."""

CHARACTERS = 50_000_000
"""The most characters that a file may give."""

FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "shutil.",
    "urllib.",
    "http.",
)
"""The beginnings of audit events of which none happens in here."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def forbid() -> None:
    """Forbid network, other programs and writing, for as long as this process lives.

    The hook of Python cannot be taken back. What libraries in C could do besides is
    limited by the kernel: no file may grow.
    """

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int)
        if event.startswith(FORBIDDEN) or (writes and arguments[2] & WRITING):
            raise PermissionError(f"{event} is forbidden while documents are parsed")

    sys.dont_write_bytecode = True
    sys.addaudithook(refuse)
    _limit("RLIMIT_AS", MEMORY)
    _limit("RLIMIT_FSIZE", 0)
    _limit("RLIMIT_CORE", 0)


def _limit(name: str, value: int) -> None:
    """Set a limit of this process, where the system has it."""
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(getattr(resource, name))
        soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, name), (soft, hard))


def _allow_time() -> None:
    """Let this process use `SECONDS` more of the processor; then the kernel ends it."""
    with contextlib.suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit("RLIMIT_CPU", int(used.ru_utime + used.ru_stime) + SECONDS)


def answer(request: dict[str, str]) -> dict[str, Any]:
    """Parse a file; whatever goes wrong is one line."""
    _allow_time()
    try:
        module = importlib.import_module(f".{request['kind']}", __package__)
        found = list(module.pieces(Path(request["path"])))
    except Refused as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "it needs more memory than a document may"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    # A parser that meets a damaged file fails in ways that nobody has listed.
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return {"error": f"it is damaged or no {request['kind']}: {text[:200]}"}
    if (characters := sum(len(text) for _, text, _ in found)) > CHARACTERS:
        return {"error": f"{characters:,} characters: the limit is {CHARACTERS:,}"}
    return {"pieces": found}


def main() -> None:
    """Answer until the input ends; nothing else reaches the output."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    forbid()
    for line in sys.stdin.buffer:
        output.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        output.flush()
