"""The library on processors that this machine has not, through qemu's user emulation.

Haswell has AVX2 and no AVX-512 (as AMD Zen 1 to 3), Nehalem has no AVX at all. Where
COMIGS_REQUIRE_QEMU=1, a missing emulator is a failure.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from comigs_mlx.platform import blas

PROGRAM = Path(__file__).with_name("emulated_step.py")
ROOT = PROGRAM.parents[1]
QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")

pytestmark = [
    pytest.mark.skipif(
        not (sys.platform.startswith("linux") and platform.machine() == "x86_64"),
        reason="emulates x86-64 on x86-64 Linux",
    ),
    pytest.mark.skipif(
        QEMU is None and "COMIGS_REQUIRE_QEMU" not in os.environ,
        reason="qemu-user is missing here",
    ),
]


def results(*emulator, **environment):
    assert None not in emulator, "qemu-user is missing: apt install qemu-user"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [*emulator, sys.executable, str(PROGRAM)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    return done


@pytest.fixture(scope="module")
def native():
    """The losses on this processor."""
    return json.loads(results().stdout)["losses"]


@pytest.mark.parametrize("processor", ["Haswell", "Nehalem"])
def test_fast_blas_and_compiled_step(processor, native):
    done = results(QEMU, "-cpu", processor)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["blas"]
    assert found["losses"] == pytest.approx(native, rel=1e-5)
    assert native[-1] < native[0]


def test_a_library_for_other_processors_ends_only_the_trial(tmp_path):
    """The fault this guards against, made: AVX-512 where the processor has none.

    The trial runs in the emulator, as it would run on such a processor.
    """
    source = tmp_path / "wide.cpp"
    source.write_text(
        "#include <immintrin.h>\n"
        'extern "C" void cblas_sgemm() {\n'
        "  volatile float x = 1; __m512 wide = _mm512_set1_ps(x);\n"
        "  x = _mm512_reduce_add_ps(wide);\n}\n"
    )
    library = tmp_path / "wide.so"
    flags = ["-mavx512f", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run(["g++", *flags, str(source)], check=True)
    command = [QEMU, "-cpu", "Haswell", sys.executable, "-c", blas.PROBE, str(library)]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert -done.returncode in blas.CRASHES
