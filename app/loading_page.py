"""A page that answers at once, until Gradio, which takes seconds to import, does.

It asks again by itself and gives way when something else answers on the same port.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread
from typing import Any

from comigs_mlx.errors import ConfigError

from .options import AppConfig

UNAVAILABLE = 503
"""Status of the page while it waits: other programs are told to come again."""

PATIENCE = 0.5
"""Seconds in which a visitor has to ask."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'"
)
"""What the page may do: ask this server."""


class _Page(BaseHTTPRequestHandler):
    timeout = PATIENCE

    def do_GET(self) -> None:
        """The same page, whatever is asked for."""
        body = (files(__package__) / "static" / "waiting.html").read_bytes()
        self.send_response(UNAVAILABLE)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Retry-After", "1")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of visitors who have left."""


@contextlib.contextmanager
def page(config: AppConfig) -> Iterator[str]:
    """Answer on the page's port until the end of the block.

    Args:
        config: Where.

    Yields:
        The address.

    Raises:
        ConfigError: If nothing can listen there.
    """
    server = _listening(config)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield config.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listening(config: AppConfig) -> _Server:
    host = config.address
    kind = type("_Kind", (_Server,), {"address_family": _family(host)})
    try:
        server: _Server = kind((host, config.port), _Page)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such address"
        raise ConfigError(
            f"cannot listen on {config.host}, port {config.port} ({why}): "
            "end what listens there, or choose another --port"
        ) from error
    return server


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
