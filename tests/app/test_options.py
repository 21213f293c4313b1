"""Who may reach the page."""

import os
import unicodedata
from pathlib import Path

import pytest

from app import private, server
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


@pytest.mark.parametrize(
    ("host", "address", "named"),
    [
        ("::1", "::1", "[::1]"),
        ("[::1]", "::1", "[::1]"),
        ("::", "::", "[::]"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("mac.local", "mac.local", "mac.local"),
    ],
)
def test_addresses_with_colons_stand_in_brackets_on_a_page(host, address, named):
    config = AppConfig(host=host)
    assert (config.address, config.named) == (address, named)


ACCENT = "caf\u00e9 du monde"


@pytest.mark.parametrize(
    "content",
    [
        ACCENT.encode(),
        b"\xef\xbb\xbf" + ACCENT.encode() + b"\r\n",  # as Windows editors write
        unicodedata.normalize("NFD", ACCENT).encode() + b"\n",  # as macOS may
    ],
    ids=["plain", "BOM", "decomposed"],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_password_is_the_one_that_is_typed(tmp_path, content, form):
    (file := tmp_path / "password").write_bytes(content)
    config = AppConfig(host="0.0.0.0", password_file=str(file))
    knows = server.knows(config.password())
    assert knows("me", unicodedata.normalize(form, ACCENT))
    assert not knows("me", "cafe du monde")
    assert not knows("you", ACCENT)
    assert not knows("me", "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"correct horse\n# for the Mac\n", "expected one line, the password alone"),
        (b"correct\x07horse", "the character that cannot be typed"),
        ("correct horse".encode("utf-16"), "cannot be read"),
    ],
)
def test_a_password_nobody_can_type_is_refused(tmp_path, content, reason):
    (file := tmp_path / "password").write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        AppConfig(host="0.0.0.0", password_file=str(file)).password()


def test_uploads_are_read_by_nobody_else(monkeypatch, tmp_path):
    """Whatever the umask, and also in a folder that was made otherwise."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in (*private.SETTINGS, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # put back afterwards
    before = os.umask(0)
    try:
        for _ in range(2):
            private.keep()
            uploads = Path(os.environ["GRADIO_TEMP_DIR"])
            assert uploads.stat().st_mode & 0o077 == 0
            uploads.chmod(0o755)
    finally:
        os.umask(before)


OFF = {"False", "0", ""}


@pytest.mark.parametrize("name", private.SETTINGS)
def test_every_setting_keeps_something_in(name):
    """Gradio's switches are off, the libraries' switches against telemetry on."""
    against = name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    assert (private.SETTINGS[name] in OFF) is not against


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
