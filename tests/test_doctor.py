"""`python -m comigs_mlx.doctor`, as a user runs it."""

import json
import os
import shutil

import pytest
from huggingface_hub import constants

import tests.hub_server as hub_server
from comigs_mlx import command, doctor
from comigs_mlx.diagnosis import machine
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from comigs_mlx.training import memory_estimate
from tests.federation.conftest import TOKENS

NAMES = {
    *("Python", "packages", "extras", "processor", "BLAS", "compiler", "device"),
    *("memory", "disk", "caches", "Hub"),
}
SECRET = "hf_" + "Abc123xyz" * 4


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    """No child process measures MLX's own BLAS; and there is a token."""
    monkeypatch.setattr(machine, "_bundled_gflops", lambda: 2.0)
    monkeypatch.setenv("HF_TOKEN", SECRET)


def checks(cli, *argv, **options):
    code, out, err = cli(doctor.main, *argv, json=True, **options)
    found = json.loads(out)["checks"]
    return code, {one["name"]: one for one in found}, out + err


def test_checks_this_machine_without_a_connection(cli):
    code, found, _ = checks(cli)
    assert code == 0
    assert set(found) == NAMES
    assert found["memory"]["values"]["total"] == os.sysconf(
        "SC_PAGE_SIZE"
    ) * os.sysconf("SC_PHYS_PAGES")
    assert found["packages"]["values"]["mlx-lm"]
    assert found["extras"]["values"]["app"] is True
    assert found["compiler"]["state"] in ("ok", "warn")
    _, out, _ = cli(doctor.main)
    assert out.startswith("ok    Python")


def test_the_token_is_known_and_never_printed(cli, monkeypatch):
    _, found, printed = checks(cli)
    assert found["Hub"]["values"] == {"token": True}
    assert "not asked (--hub asks)" in found["Hub"]["text"]

    with hub_server.Server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKENS["ann"])
        _, found, more = checks(cli, "--hub")
        assert found["Hub"]["text"] == "there is a token, and it knows you as ann"
        assert found["Hub"]["state"] == "ok"
        monkeypatch.setenv("HF_TOKEN", SECRET)
        code, found, most = checks(cli, "--hub")
        assert (code, found["Hub"]["state"]) == (0, "warn")
        assert "hf auth login" in found["Hub"]["advice"]
    assert SECRET not in printed + more + most
    assert TOKENS["ann"] not in more


def test_what_is_broken_is_said_with_exit_code_2(cli, monkeypatch):
    monkeypatch.setattr(machine, "LEAST_PYTHON", (9, 9))
    needed = ["mlx<0.1", "nope", "nowhere; extra == 'app'"]
    monkeypatch.setattr(machine.metadata, "requires", lambda name: needed)
    code, found, _ = checks(cli)
    assert code == 2
    assert found["Python"]["advice"].startswith("install Python 9.9")
    text = found["packages"]["text"]
    assert text.startswith("missing or of another version: mlx<0.1 (found 0.")
    assert text.endswith("), nope")
    assert found["extras"]["values"]["app"] is False


def test_a_missing_compiler_and_blas_are_warned_of(cli, monkeypatch):
    if not machine.switch.linux():
        pytest.skip("both are Linux's")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(machine, "_blas_library", lambda: None)

    def unusable():
        raise machine.blas.Unusable("the wheel is not installed: pip install it")

    monkeypatch.setattr(machine.blas, "load", unusable)
    code, found, _ = checks(cli)
    assert code == 0
    assert found["compiler"]["advice"].startswith("apt install g++")
    assert found["BLAS"]["state"] == "warn"
    assert found["BLAS"]["advice"] == "the wheel is not installed: pip install it"


def test_a_model_s_memory_is_that_of_training(cli, tiny_folder):
    _, found, _ = checks(cli, model=tiny_folder(), batch_size=2, seq_len=40)
    from comigs_mlx.model.base import load_base

    mixture = Mixture(load_base(str(tiny_folder())).model, ExpertOptions())
    work = memory_estimate.Work(2, 40, measured=40)
    expected = memory_estimate.plan(mixture, work).estimate.peak
    assert found["model"]["values"]["peak"] == expected
    assert found["model"]["state"] == "ok"


def test_a_model_that_is_not_here_or_damaged(cli, tiny_folder, tmp_path):
    code, found, _ = checks(cli, model="nobody/nothing")
    assert (code, found["model"]["state"]) == (0, "warn")
    broken = shutil.copytree(tiny_folder(), tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"x")
    code, found, _ = checks(cli, model=broken)
    assert (code, found["model"]["state"]) == (2, "fail")
    assert "model.safetensors" in found["model"]["text"]


def test_reports_on_text(cli, tiny_folder, text_folder, monkeypatch):
    options = {"data": text_folder, "model": tiny_folder()}
    code, out, err = cli(doctor.main, **options)
    assert (code, out.splitlines()[0]) == (0, "read as text: 250 documents")
    assert "⟦" in out
    assert "\x1b" not in out
    assert err == f"reading {text_folder}; tokens of {tiny_folder()}\n"
    monkeypatch.setattr(command, "in_colour", lambda: True)
    _, coloured, _ = cli(doctor.main, **options)
    assert "\x1b[1;32m" in coloured
    assert "⟦" not in coloured
    _, out, _ = cli(doctor.main, json=True, **options)
    assert json.loads(out)["documents"] == {"train": 200, "valid": 40, "test": 10}


def test_text_that_cannot_be_read_is_an_error_with_its_line(cli, write, tmp_path):
    folder = write({"train.jsonl": b'{"text": "a"}\n{"text": \n', "valid.jsonl": b""})
    code, out, err = cli(doctor.main, data=folder, model="nobody/nothing")
    assert (code, out) == (2, "")
    assert "train.jsonl:2: " in err
    assert "nobody/nothing is not on this device, so no tokens are counted" in err
    (tmp_path / "empty").mkdir()
    code, _, err = cli(doctor.main, data=tmp_path / "empty")
    assert code == 2
    assert "no text found" in err


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    assert not command.in_colour()
    monkeypatch.setattr(command.sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert command.in_colour()
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not command.in_colour()
