"""The processes that tests start are what `python` with the same arguments would be."""

import os
import signal
import subprocess
import sys

import pytest

import tests.processes as processes

TOLD = (
    "import os, sys; print(sys.argv, os.environ['COLOUR'], os.getcwd()); "
    "print('problem', file=sys.stderr); sys.exit(3)"
)


def test_arguments_environment_streams_and_status():
    environment = {**os.environ, "PYTHONPATH": str(processes.ROOT), "COLOUR": "blue"}
    command = [sys.executable, "-c", TOLD, "a", "b"]
    expected = subprocess.run(
        command, env=environment, cwd=processes.ROOT, capture_output=True, text=True
    )
    with processes.start("-c", TOLD, "a", "b", COLOUR="blue") as process:
        assert process.communicate(timeout=60) == (expected.stdout, expected.stderr)
        assert process.returncode == expected.returncode == 3


def test_it_computes_and_is_another_process():
    code = "import os, mlx.core as mx; print(os.getpid(), mx.ones(3).sum().item())"
    with processes.start("-c", code) as process:
        out, err = process.communicate(timeout=60)
        assert out == f"{process.pid} 3.0\n", err
    assert process.pid != os.getpid()


def test_a_file_is_run_as_the_program(tmp_path):
    file = tmp_path / "program.py"
    file.write_text("import sys; print(__name__, sys.argv)")
    with processes.start(file, "a") as process:
        assert process.communicate(timeout=60) == (f"__main__ {[str(file), 'a']}\n", "")


def test_a_module_is_run_as_the_program():
    with processes.start("-m", "comigs_mlx.train", "--help") as process:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.startswith("usage: ")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_it(number):
    with processes.start("-c", "import time; time.sleep(60)") as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        os.kill(process.pid, number)
        assert process.wait(60) == -number
