"""MLX on a Linux CPU: fast, or one line that says why not."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import warnings
from importlib.util import spec_from_loader
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from comigs_mlx import cpu

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux needs this"
)


def run_python(code, **environment):
    """Run code in a new Python, with these changes to the environment."""
    env = {**os.environ, **environment}
    if "MLX_DISABLE_COMPILE" not in environment:
        env.pop("MLX_DISABLE_COMPILE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def libraries():
    """The folder that holds the installed packages."""
    return Path(sysconfig.get_paths()["purelib"])


@pytest.fixture
def path_without_compiler(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return str(folder)


@linux
def test_matrix_product_reaches_20_gflops():
    """The reference BLAS of MLX's wheel has 2 to 5."""
    size, best = 1024, 0.0
    a = mx.random.normal((size, size))
    deadline = time.perf_counter() + 10  # the machine may be busy for a while
    while best < 20 and time.perf_counter() < deadline:
        start = time.perf_counter()
        mx.eval(a @ a)
        best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    assert best >= 20


@linux
def test_openblas_is_really_the_one_loaded():
    maps = Path("/proc/self/maps").read_text()
    assert "libopenblas" in maps


@linux
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is missing here")
def test_import_is_silent_where_nothing_is_missing():
    assert run_python("import comigs_mlx").stderr == ""


@linux
class TestOneLine:
    def test_without_a_compiler(self, path_without_compiler):
        code = (
            "import os, comigs_mlx, mlx.core as mx\n"
            "y = mx.compile(lambda x: mx.exp(x) * 2 + 1)(mx.zeros(3))\n"
            "print(y.tolist(), os.environ['MLX_DISABLE_COMPILE'])"
        )
        done = run_python(code, PATH=path_without_compiler)
        assert done.stderr == (
            "warning: g++ not found, so compiled steps are off and training is slower: "
            "apt install g++ (or your system's compiler package)\n"
        )
        assert done.stdout == "[3.0, 3.0, 3.0] 1\n"

    def test_a_child_process_does_not_say_it_again(self, path_without_compiler):
        done = run_python(
            "import comigs_mlx", PATH=path_without_compiler, MLX_DISABLE_COMPILE="1"
        )
        assert done.stderr == ""

    def test_without_the_wheel(self):
        code = (
            "import importlib.util as util\n"
            "real = util.find_spec\n"
            "util.find_spec = lambda n, *a: None if n == 'cmeel' else real(n, *a)\n"
            "import comigs_mlx"
        )
        assert run_python(code).stderr == (
            "warning: fast BLAS not loaded (the wheel cmeel-openblas is not "
            "installed); MLX will be about 30 times slower: "
            "pip install cmeel-openblas\n"
        )

    def test_with_mlx_imported_first(self):
        assert run_python("import mlx.core, comigs_mlx").stderr == (
            "warning: mlx was imported before comigs_mlx, so it keeps its slow "
            "reference BLAS: import comigs_mlx first\n"
        )

    def test_filters_still_apply(self, path_without_compiler):
        """As errors where warnings are errors, silent where they are ignored."""
        code = (
            "import warnings\n"
            "warnings.simplefilter('error')\n"
            "try:\n    import comigs_mlx\n"
            "except UserWarning as error:\n    print(error)"
        )
        done = run_python(code, PATH=path_without_compiler)
        assert done.stdout.startswith("g++ not found")
        assert done.stderr == ""
        silent = "import warnings\nwarnings.simplefilter('ignore')\nimport comigs_mlx"
        assert run_python(silent, PATH=path_without_compiler).stderr == ""


class TestWarn:
    def test_other_warnings_keep_their_form(self):
        usual = warnings.formatwarning
        with pytest.warns(UserWarning, match="^short$"):
            cpu._warn("short")
        assert warnings.formatwarning is usual

    def test_also_where_a_warning_is_an_error(self):
        usual = warnings.formatwarning
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="^short$"):
                cpu._warn("short")
        assert warnings.formatwarning is usual


class TestPrepare:
    def test_does_nothing_elsewhere(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(cpu, "load_openblas", None)  # would fail
        monkeypatch.setenv("PATH", "")
        monkeypatch.setenv("MLX_DISABLE_COMPILE", "")  # so that it is put back
        monkeypatch.delenv("MLX_DISABLE_COMPILE")
        cpu.prepare()
        assert "MLX_DISABLE_COMPILE" not in os.environ

    def test_names_both_problems(self, monkeypatch, tmp_path):
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.delitem(sys.modules, "mlx.core")
        monkeypatch.setattr(cpu, "load_openblas", lambda: "some reason")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("MLX_DISABLE_COMPILE", "")  # so that it is put back
        monkeypatch.delenv("MLX_DISABLE_COMPILE")
        monkeypatch.setattr(cpu, "_warn", (said := []).append)
        cpu.prepare()
        assert len(said) == 2
        assert "(some reason)" in said[0]
        assert said[0].endswith("pip install cmeel-openblas")
        assert said[1].startswith("g++ not found")
        assert os.environ["MLX_DISABLE_COMPILE"] == "1"


# --- which library is loaded, with a loader that only notes it ----------------------

BUNDLED = "libgfortran-0a1b2c3d.so.5.0.0"
MISSING = "libgfortran.so.5: cannot open shared object file: No such file or directory"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages with cmeel in it, and an empty cache."""
    site = tmp_path / "site"
    (site / "cmeel").mkdir(parents=True)
    (site / "mlx_cpu.libs").mkdir()
    spec = spec_from_loader(
        "cmeel", loader=None, origin=str(site / "cmeel/__init__.py")
    )
    find = lambda name: spec if name == "cmeel" else None
    monkeypatch.setattr(cpu.importlib.util, "find_spec", find)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return site


@pytest.fixture
def loader(monkeypatch):
    """Stands in for `ctypes.CDLL`: notes what is loaded, fails as told."""
    loader = SimpleNamespace(loaded=[], failures={})

    def load(path, mode):
        assert mode == cpu.ctypes.RTLD_GLOBAL
        name = Path(path).name
        if loader.failures.get(name):
            raise OSError(loader.failures[name].pop(0))
        loader.loaded.append(Path(path))

    monkeypatch.setattr(cpu.ctypes, "CDLL", load)
    return loader


def put_fortran(site):
    """A fake Fortran library: its name stands in it, NUL-terminated, among others."""
    raw = b"\x7fELF\0" + BUNDLED.encode() + b"\0other.so\0" + bytes(range(256))
    (site / "mlx_cpu.libs" / BUNDLED).write_bytes(raw)
    (site / "mlx_cpu.libs" / "libquadmath-99.so.0.0.0").write_bytes(b"quad")
    return raw


class TestLoading:
    def test_openblas_alone_where_the_system_has_fortran(self, site, loader):
        assert cpu.load_openblas() is None
        assert loader.loaded == [site / "cmeel.prefix/lib/libopenblas.so.0"]

    def test_without_the_wheel(self, monkeypatch, loader):
        monkeypatch.setattr(cpu.importlib.util, "find_spec", lambda name: None)
        assert cpu.load_openblas() == "the wheel cmeel-openblas is not installed"
        assert loader.loaded == []

    def test_a_library_that_does_not_load_says_why(self, site, loader):
        loader.failures["libopenblas.so.0"] = ["wrong ELF class"]
        assert cpu.load_openblas() == "wrong ELF class"

    def test_bundled_fortran_under_its_plain_name(self, site, loader):
        put_fortran(site)
        loader.failures["libopenblas.so.0"] = [MISSING]
        assert cpu.load_openblas() is None
        copy = cpu._renamed_copy(site / "mlx_cpu.libs" / BUNDLED)
        assert loader.loaded == [
            site / "mlx_cpu.libs" / "libquadmath-99.so.0.0.0",
            copy,
            site / "cmeel.prefix/lib/libopenblas.so.0",
        ]
        assert copy.name == "libgfortran.so.5"

    def test_the_patch_changes_the_name_and_no_other_byte(self, site):
        raw = put_fortran(site)
        copy = cpu._renamed_copy(site / "mlx_cpu.libs" / BUNDLED).read_bytes()
        start, length = raw.index(BUNDLED.encode()), len(BUNDLED)
        assert len(copy) == len(raw)
        assert copy[:start] == raw[:start]
        assert copy[start : start + length] == b"libgfortran.so.5".ljust(length, b"\0")
        assert copy[start + length :] == raw[start + length :]

    def test_the_copy_is_made_once(self, site):
        put_fortran(site)
        fortran = site / "mlx_cpu.libs" / BUNDLED
        first = cpu._renamed_copy(fortran)
        before = first.stat().st_mtime_ns, first.stat().st_ino
        again = cpu._renamed_copy(fortran)
        assert (again.stat().st_mtime_ns, again.stat().st_ino) == before

    def test_neither_system_nor_wheel_has_fortran(self, site, loader):
        loader.failures["libopenblas.so.0"] = [MISSING]
        expected = "libgfortran.so.5 is missing: apt install libgfortran5"
        assert cpu.load_openblas() == expected

    def test_a_copy_that_does_not_help_says_why(self, site, loader):
        put_fortran(site)
        loader.failures["libopenblas.so.0"] = [MISSING, MISSING]
        assert cpu.load_openblas() == MISSING

    def test_a_cache_that_cannot_be_written_says_why(self, site, loader, monkeypatch):
        put_fortran(site)
        loader.failures["libopenblas.so.0"] = [MISSING]
        (site / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(site / "file"))
        assert "Not a directory" in cpu.load_openblas()


@linux
@pytest.mark.skipif(
    not (libraries() / "mlx_cpu.libs").is_dir(), reason="MLX brings no Fortran here"
)
def test_the_real_fortran_library_loads_under_its_plain_name(tmp_path):
    """In a new process whose cache is empty, so that the copy is made there."""
    code = (
        "import ctypes, comigs_mlx.cpu as cpu\n"
        f"bundled = cpu.Path({str(libraries() / 'mlx_cpu.libs')!r})\n"
        "blas = bundled.parent / 'cmeel.prefix/lib/libopenblas.so.0'\n"
        "print(cpu._load_with_bundled_fortran(blas, bundled))\n"
        f"print({str(tmp_path)!r} in open('/proc/self/maps').read())"
    )
    done = run_python(code, XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout == "None\nTrue\n"
    (copy,) = tmp_path.rglob("libgfortran.so.5")
    assert copy.stat().st_size > 100_000
