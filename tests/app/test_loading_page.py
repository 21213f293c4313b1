"""The page before the page: at once, and gone without a trace."""

import http.client
import re
import socket
import time
from importlib.resources import files

import pytest

from app import loading_page
from app.options import AppConfig
from comigs_mlx.errors import ConfigError


@pytest.fixture
def config():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return AppConfig(port=port)


def ask(port, method="GET", path="/"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize("path", ["/", "/config", "/<b>x</b>"])
def test_it_says_that_it_is_starting_and_to_come_again(config, path):
    with loading_page.page(config) as address:
        assert address == f"http://127.0.0.1:{config.port}/"
        answer, body = ask(config.port, path=path)
        head, none = ask(config.port, "HEAD", path)
    assert (answer.status, head.status, none) == (503, 503, b"")
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert b"Starting" in body
    assert b"<b>x" not in body


def test_the_port_is_free_at_once_whoever_was_there(config):
    """Visitors who have not asked yet, or not hung up, do not hold it."""
    with loading_page.page(config):
        ask(config.port)
        idle = socket.create_connection(("127.0.0.1", config.port))
        lingering = socket.create_connection(("127.0.0.1", config.port))
        lingering.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert lingering.recv(12) == b"HTTP/1.0 503"
        start = time.monotonic()
    assert time.monotonic() - start < 2
    with idle, lingering, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Gradio does
        other.bind(("127.0.0.1", config.port))


def test_a_port_that_is_taken_is_one_line(config):
    with (
        loading_page.page(config),
        pytest.raises(ConfigError, match=f"port {config.port} .*another --port"),
        loading_page.page(config),
    ):
        pass


def test_it_asks_nobody_else():
    text = (files("app") / "static" / "waiting.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:https?:)?//\w", text)
