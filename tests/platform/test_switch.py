"""The one switch: what it says of each machine, and that nobody else decides."""

import platform
import re
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import comigs_mlx
from comigs_mlx.platform import switch
from comigs_mlx.platform.switch import macos

PACKAGE = Path(comigs_mlx.__file__).parent
LOOKS = re.compile(r"\bsys\.platform\b|platform\.(machine|system)\(|default_device\(")
"""How code looks at the system, the processor or the device."""

MAY_LOOK = {
    "platform/switch.py",
    "platform/blas.py",  # names the processor in a message
    "diagnosis/machine.py",  # tells the user the processor's name
    "environment.py",  # says where numbers were measured
    "inference/generation.py",  # reads prompts in larger pieces on a GPU
}


class TestX86:
    @pytest.mark.parametrize("machine", ["x86_64", "AMD64", "amd64"])
    def test_on_an_x86_cpu(self, monkeypatch, machine):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
        assert switch.x86_cpu()

    @pytest.mark.parametrize("machine", ["arm64", "aarch64", ""])
    def test_on_no_other_cpu(self, monkeypatch, machine):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
        assert not switch.x86_cpu()

    def test_on_no_gpu(self, monkeypatch):
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        assert not switch.x86_cpu()


@pytest.mark.parametrize(
    ("system", "expected"), [("linux", True), ("linux2", True), ("darwin", False)]
)
def test_linux(monkeypatch, system, expected):
    monkeypatch.setattr(sys, "platform", system)
    assert switch.linux() is expected


@pytest.mark.parametrize(
    ("system", "expected"), [("darwin", True), ("linux", False), ("win32", False)]
)
def test_macos(monkeypatch, system, expected):
    monkeypatch.setattr(sys, "platform", system)
    assert macos() is expected


def test_nobody_else_looks_at_the_machine():
    files = sorted(PACKAGE.rglob("*.py"))
    looking = {
        path.relative_to(PACKAGE).as_posix()
        for path in files
        if LOOKS.search(path.read_text())
    }
    assert "platform/switch.py" in looking
    assert looking - MAY_LOOK == set()
