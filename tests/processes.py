"""Processes of their own, without the second that each would take to import MLX.

`start` gives a real process: it has its own memory and files, and a signal ends it. On
Linux it is forked from a server that has imported everything and computed nothing, so
that no thread of MLX is lost in the fork. Elsewhere it is a new interpreter.

What a test proves of the interpreter itself (its start, its imports, its end) needs
`subprocess` instead.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Process:
    """A process that runs a program; what it prints goes to files, which never fill.

    Attributes:
        pid: Its number.
    """

    def __init__(self, argv, env):
        self._files = [tempfile.NamedTemporaryFile("r") for _ in ("out", "err")]
        out, err = (file.name for file in self._files)
        self._forked = sys.platform == "linux"
        if self._forked:
            given = ([str(word) for word in argv], env, out, err)
            self._process = _server().Process(target=_become, args=given)
            self._process.start()
        else:
            with open(out, "w") as stdout, open(err, "w") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, *map(str, argv)],
                    env=env, cwd=ROOT, stdout=stdout, stderr=stderr,
                )  # fmt: skip
        self.pid = self._process.pid

    @property
    def returncode(self):
        """Its exit status, negative where a signal ended it; None while it runs."""
        return self._process.exitcode if self._forked else self._process.poll()

    poll = returncode.fget

    def wait(self, timeout=None):
        """Wait for its end; its exit status."""
        if not self._forked:
            return self._process.wait(timeout)
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """Wait for its end; what it printed to stdout and to stderr."""
        self.wait(timeout)
        for file in self._files:
            file.seek(0)
        return tuple(file.read() for file in self._files)

    def kill(self):
        """End it at once."""
        self._process.kill()

    def close(self):
        """End it, if it still runs, and remove the files."""
        self.kill()
        self.wait()
        for file in self._files:
            file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def start(*argv, **environment):
    """Start Python with the arguments `argv`, and further environment variables."""
    return Process(argv, {**os.environ, "PYTHONPATH": str(ROOT), **environment})


def _server():
    """The context whose first process starts the server; see `preloaded`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def _become(argv, env, out, err):
    """Be what `python *argv` is, as far as a program can see it."""
    for number, file in ((1, out), (2, err)):
        written = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(written, number)
        os.close(written)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    _read_environment()
    kind, *rest = argv
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        sys.modules.pop(rest[0], None)  # it is to be run, not to be found
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(kind, run_name="__main__")


def _read_environment():
    """The Hub's library reads the environment only when it is imported."""
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        import importlib

        importlib.reload(constants)
