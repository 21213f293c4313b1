"""What PRIVACY.md promises: no socket for local text, no telemetry, all of it named."""

import os
import socket
import sys
from pathlib import Path

import pytest

from comigs_mlx import clean, command, environment, evaluate, generate, merge, train
from comigs_mlx.runs import cleaning
from tests.tiny import TRAINING

ROOT = Path(__file__).parents[1]
PRIVACY = (ROOT / "PRIVACY.md").read_text(encoding="utf-8")
WATCHED = []
"""Lists that are told of sockets; an audit hook cannot be taken away again."""


def _watch(event, arguments):
    if event.startswith("socket.") and WATCHED:
        WATCHED[-1].append((event, arguments))


sys.addaudithook(_watch)


@pytest.fixture
def sockets():
    """Every use of a socket while the test runs, by any library written in Python."""
    WATCHED.append([])
    yield WATCHED[-1]
    WATCHED.pop()


def test_the_guard_sees_a_socket_and_a_question_for_a_name(sockets):
    socket.socket(socket.AF_UNIX).close()
    socket.getaddrinfo("127.0.0.1", 80)
    assert [event for event, _ in sockets] == ["socket.__new__", "socket.getaddrinfo"]


def test_local_text_and_model_need_no_network(
    sockets, cli, tiny_folder, text_folder, tmp_path, monkeypatch
):
    """Also without the switches that keep huggingface_hub offline."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    run, xet = tmp_path / "run", "hf_xet" in sys.modules
    given = {"model": tiny_folder(), "data": text_folder, "run": run}
    assert cli(train.main, **TRAINING, **given)[0] == 0
    assert cli(train.main, run=run, resume=True, steps=8)[0] == 0
    assert cli(evaluate.main, run=run)[0] == 0
    page = tmp_path / "who.html"
    told = cli(generate.main, run=run, prompt="ab", max_tokens=3, html=page)
    assert told[0] == 0
    assert cli(merge.main, run=run, experts="0.5,0.5", out=tmp_path / "out")[0] == 0
    assert cli(clean.main, "--dry-run", runs=tmp_path)[0] == 0
    assert sockets == []
    assert ("hf_xet" in sys.modules) == xet  # its sockets are not Python's
    assert "://" not in page.read_text().replace("http://www.w3.org", "")


def test_commands_switch_telemetry_off_before_they_begin(monkeypatch):
    for name in environment.NO_TELEMETRY:
        monkeypatch.setenv(name, "")
    during = {}
    command.run(lambda: during.update(os.environ))
    assert environment.NO_TELEMETRY.items() <= during.items()
    from huggingface_hub import constants  # reads them once, at its import

    assert constants._is_true(during["HF_HUB_DISABLE_TELEMETRY"])


@pytest.mark.parametrize(
    "name",
    [
        *(f"~/.cache/comigs_mlx/{kind.name}" for kind in cleaning.CACHES),
        f"RUNS/{cleaning.CONVERSATIONS}/",
        "~/.config/comigs_mlx/keys",
        *environment.NO_TELEMETRY,
    ],
)
def test_the_page_names(name):
    assert f"`{name}`" in PRIVACY
