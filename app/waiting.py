"""A page that says "starting" until the real one is there.

Importing Gradio alone takes seconds. Whoever opens the address before sees at once that
something is coming, and gets it as soon as it answers. Standard library only.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SIGN = "X-Starting"
"""The header that tells this page from the real one."""

PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>comigs_mlx</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>
body {{ font: 1rem system-ui, sans-serif; margin: 12vh auto; max-width: 32rem;
       padding: 0 1rem; color: #15181d; background: #fff }}
progress {{ width: 100% }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #f2f4f7; background: #14171b }}
}}
</style></head><body>
<h1>comigs_mlx</h1>
<p role="status">Starting the page. It opens here by itself.</p>
<progress aria-label="starting"></progress>
<script>
const look = () => fetch(location.pathname, {{ cache: "no-store" }})
  .then((answer) => {{ if (!answer.headers.get("{SIGN}")) location.reload(); }})
  .catch(() => {{}});  // between the two pages nobody answers
setInterval(look, 300);
</script>
<noscript>Reload this page in some seconds.</noscript>
</body></html>
""".encode()


@contextlib.contextmanager
def page(host: str, port: int) -> Iterator[None]:
    """Answer at an address for the time of a block; where it is taken, do nothing."""
    try:
        server = _Server((host, port), _Starting)
    except OSError:  # whoever comes after says what is wrong with it
        yield
        return
    answering = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    answering.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


class _Starting(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """The page, whatever is asked for."""
        self.send_response(503)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(PAGE))),
            ("Cache-Control", "no-store"),
            ("Retry-After", "1"),
            (SIGN, "1"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(PAGE)

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
