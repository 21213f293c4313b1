"""MLX on a Linux CPU: fast, or one line that says why not."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from comigs_mlx.platform import blas, cpu

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


@pytest.fixture
def path_without_compiler(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return str(folder)


SECONDS_OF_A_PRODUCT = """
import time, mlx.core as mx
a = mx.random.normal((512, 512))
mx.eval(a, a @ a)
start = time.perf_counter()
mx.eval(a @ a)
print(time.perf_counter() - start)
"""


@linux
def test_products_are_faster_than_with_the_bundled_blas():
    """In turn, with one thread each, so that another load slows both."""
    bundled, fast = [], []
    for _ in range(3):
        for times, first in ((bundled, ""), (fast, "import comigs_mlx")):
            done = run_python(first + SECONDS_OF_A_PRODUCT, OPENBLAS_NUM_THREADS="1")
            times.append(float(done.stdout))
    assert min(fast) * 2.5 < min(bundled)


@linux
def test_the_fast_blas_is_really_the_one_loaded():
    """Its functions are found first, in the global scope, under their plain names."""
    maps = Path("/proc/self/maps").read_text()
    assert "/blas/openblas-" in maps
    for name in ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm", "sgesdd_"):
        assert origin(getattr(ctypes.CDLL(None), name)).name.startswith("openblas-")


def origin(function):
    """The file of the library that a function of ctypes comes from (dladdr)."""

    class Info(ctypes.Structure):
        _fields_ = [
            ("file", ctypes.c_char_p),
            ("base", ctypes.c_void_p),
            ("name", ctypes.c_char_p),
            ("address", ctypes.c_void_p),
        ]

    info = Info()
    address = ctypes.cast(function, ctypes.c_void_p)
    assert ctypes.CDLL(None).dladdr(address, ctypes.byref(info))
    return Path(info.file.decode())


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
            "from importlib import metadata\n"
            "real = metadata.distribution\n"
            "def distribution(name):\n"
            "    if name == 'scipy-openblas32':\n"
            "        raise metadata.PackageNotFoundError(name)\n"
            "    return real(name)\n"
            "metadata.distribution = distribution\n"
            "import comigs_mlx"
        )
        assert run_python(code).stderr == (
            "warning: no fast BLAS, so MLX is about 30 times slower: the wheel "
            "scipy-openblas32 is not installed: pip install scipy-openblas32\n"
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


class TestCrash:
    @pytest.mark.parametrize("status", [None, 0, 1, 2, 130])
    def test_an_exit_is_none(self, status):
        assert cpu.crash(status) is None

    def test_of_a_real_process(self):
        """An illegal instruction must not look like the user's error."""
        code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
        status = subprocess.run([sys.executable, "-c", code]).returncode
        assert "instruction that this processor does not have" in cpu.crash(status)

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (-signal.SIGKILL, "want of memory (SIGKILL)"),
            (-signal.SIGSEGV, "a signal ended it (SIGSEGV)"),
            (-63, "a signal ended it (63)"),
        ],
    )
    def test_names_the_signal(self, status, words):
        assert cpu.crash(status).endswith(words)


class TestPrepare:
    def test_does_nothing_elsewhere(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(blas, "load", None)  # would fail
        monkeypatch.setenv("PATH", "")
        monkeypatch.setenv("MLX_DISABLE_COMPILE", "")  # so that it is put back
        monkeypatch.delenv("MLX_DISABLE_COMPILE")
        cpu.prepare()
        assert "MLX_DISABLE_COMPILE" not in os.environ

    @pytest.fixture
    def said(self, monkeypatch, tmp_path):
        """What is said on a Linux without a compiler."""
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.delitem(sys.modules, "mlx.core")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("MLX_DISABLE_COMPILE", "")  # so that it is put back
        monkeypatch.delenv("MLX_DISABLE_COMPILE")
        monkeypatch.setattr(cpu, "_warn", (said := []).append)
        return said

    def test_names_both_problems(self, monkeypatch, said):
        def load():
            raise blas.Unusable("some reason: some remedy")

        monkeypatch.setattr(blas, "load", load)
        cpu.prepare()
        assert len(said) == 2
        assert said[0] == (
            "no fast BLAS, so MLX is about 30 times slower: some reason: some remedy"
        )
        assert said[1].startswith("g++ not found")
        assert os.environ["MLX_DISABLE_COMPILE"] == "1"

    @pytest.mark.parametrize(("before", "then"), [(None, "60"), ("33", "33")])
    def test_checkpointing_narrows_graphs_unless_the_user_said(
        self, monkeypatch, said, before, then
    ):
        monkeypatch.setenv(cpu.WIDTH, before or "")  # so that it is put back
        if before is None:
            monkeypatch.delenv(cpu.WIDTH)
        monkeypatch.setattr(blas, "load", lambda: None)
        cpu.prepare()
        assert os.environ[cpu.WIDTH] == (before or "1000")
        cpu.narrow_graphs()
        assert os.environ[cpu.WIDTH] == then

    def test_passes_a_remark_on(self, monkeypatch, said):
        monkeypatch.setattr(blas, "load", lambda: "a remark")
        cpu.prepare()
        assert said[0] == "a remark"
