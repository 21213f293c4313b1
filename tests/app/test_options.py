"""Who may reach the page."""

import os
from pathlib import Path

import pytest

from app import private
from app.options import AppConfig
from comigs_mlx.config import parse
from comigs_mlx.errors import ConfigError


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_this_machine_needs_no_password(host):
    config = parse(AppConfig, "app", ["--host", host])
    assert config.local
    assert config.password() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "mac.local"])
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


def test_the_environment_cannot_open_the_page(monkeypatch, tmp_path):
    for name in (*private.SETTINGS, *private.FROM_OUTSIDE, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "as the shell has it")  # put back afterwards
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    private.keep()
    assert not set(private.FROM_OUTSIDE) & set(os.environ)
    assert os.environ["GRADIO_SHARE"] == "False"
    assert os.environ["GRADIO_ALLOWED_PATHS"] == ""
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    assert uploads.is_relative_to(tmp_path)
    assert uploads.stat().st_mode & 0o077 == 0
