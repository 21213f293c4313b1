"""Who may reach the page."""

import os
from pathlib import Path

import pytest

from app import local_only
from app.options import AppConfig
from comigs_mlx.config import parse
from comigs_mlx.errors import ConfigError


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "[::1]", "localhost", "127.0.0.2"]
)
def test_this_machine_needs_no_password(host):
    config = parse(AppConfig, "app", ["--host", host])
    assert config.local
    assert config.password() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "[::]", "mac.local"])
def test_wider_needs_a_password(host):
    with pytest.raises(ConfigError, match="add --password-file FILE"):
        parse(AppConfig, "app", ["--host", host])


def test_a_password_is_read_and_must_be_long_enough(tmp_path):
    file = tmp_path / "password"
    flags = ["--host", "0.0.0.0", "--password-file", str(file)]
    config = parse(AppConfig, "app", flags)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.password()
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="at least 8 characters") as found:
        config.password()
    assert "short" not in str(found.value)
    file.write_text("long enough\n")
    assert config.password() == "long enough"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7860/"),
        ("::1", "http://[::1]:7860/"),
        ("[::1]", "http://[::1]:7860/"),
        ("0.0.0.0", "http://localhost:7860/"),
        ("::", "http://localhost:7860/"),
    ],
)
def test_the_address_of_the_page(host, url):
    assert AppConfig(host=host).url == url


@pytest.mark.parametrize("host", ["", " ", "a b", "http://me", "a/b", "me@there", "[]"])
def test_what_is_no_address(host):
    with pytest.raises(ConfigError, match="is no address"):
        parse(AppConfig, "app", [f"--host={host}"])


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"\xef\xbb\xbfcorrect horse\r\n", "correct horse"),  # Windows' editor
        (b"\n\n  correct horse  \n\n", "correct horse"),
        ("cafe\u0301 du monde\n".encode(), "caf\u00e9 du monde"),
        ("пароль длинный".encode(), "пароль длинный"),
    ],
)
def test_a_password_is_read_as_it_is_typed(tmp_path, content, password):
    file = tmp_path / "password"
    file.write_bytes(content)
    assert AppConfig(password_file=str(file)).password() == password


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("correct horse\n# for the Mac\n", "has 2 lines"),
        ("correct\thorse", r"cannot be typed \(U\+0009\)"),
        ("correct\u200bhorse", r"cannot be typed \(U\+200B\)"),
        ("correct\x00horse", r"cannot be typed \(U\+0000\)"),
        ("\n \n", "at least 8 characters"),
    ],
)
def test_a_password_that_would_lock_everybody_out_is_refused(tmp_path, content, why):
    file = tmp_path / "password"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=why) as found:
        AppConfig(password_file=str(file)).password()
    assert "horse" not in str(found.value)
    assert "\n" not in str(found.value)


def test_runs_are_in_a_folder_that_may_be_new(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "link"):
        (problem,) = AppConfig(runs=str(tmp_path / name)).problems()
        assert problem.endswith("is no folder: name one, which may be new")
    for name in ("", "new", "deep/new"):
        assert list(AppConfig(runs=str(tmp_path / name)).problems()) == []
    assert list(AppConfig(runs=" ").problems()) == [
        "--runs is empty: name a folder, or leave it out"
    ]


def test_no_telemetry_leaves(monkeypatch, tmp_path):
    """Each of these is what the package itself reads; see its documentation."""
    for name in (*local_only.SETTINGS, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "True")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    local_only.keep()
    off = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    off |= {"GRADIO_SHARE": "False", "GRADIO_MCP_SERVER": "False"}
    off |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    assert {name: os.environ[name] for name in off} == off


@pytest.mark.parametrize("umask", [0, 0o022])
def test_uploads_are_for_nobody_else_whoever_made_their_folder(
    monkeypatch, tmp_path, umask
):
    for name in (*local_only.SETTINGS, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old = os.umask(umask)
    try:
        (tmp_path / "comigs_mlx" / "uploads").mkdir(parents=True)
        local_only.keep()
    finally:
        os.umask(old)
    mode = (tmp_path / "comigs_mlx" / "uploads").stat().st_mode
    assert mode & 0o777 == 0o700


def test_the_environment_cannot_open_the_page(monkeypatch, tmp_path):
    for name in (*local_only.SETTINGS, *local_only.FROM_OUTSIDE, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "as the shell has it")  # put back afterwards
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    local_only.keep()
    assert not set(local_only.FROM_OUTSIDE) & set(os.environ)
    assert os.environ["GRADIO_SHARE"] == "False"
    assert os.environ["GRADIO_ALLOWED_PATHS"] == ""
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    assert uploads.is_relative_to(tmp_path)
    assert uploads.stat().st_mode & 0o077 == 0
