"""How the page is served: to whom, with what, and what is refused."""

from __future__ import annotations

import re
import secrets
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from app.options import USER, AppConfig, as_typed

SCRIPTS = ("tokens.js", "detail.js", "feed.js", "routing.js")
"""In the order in which they build on one another."""

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a page of this machine is asked for."""

FETCH = re.compile(r"/(gradio_api/)?(file|proxy)=?/?https?:", re.IGNORECASE)
"""Requests that would have the server fetch something from elsewhere."""

FORWARDED = b"x-forwarded-host"
"""Gradio would take it for the page's own address."""

MOST_UPLOAD = "1gb"
FONT = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class Gate:
    """Refuses what a foreign page could ask of this one.

    A page elsewhere can point its own name at this machine (DNS rebinding), or send
    requests here from the user's browser; both show in the headers Host and Origin.

    Args:
        app: What is guarded.
        names: The names it is asked for by; None is any.
    """

    def __init__(self, app: App, names: Sequence[str] | None = LOCAL_NAMES):
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer, or refuse with 403 and a sentence."""
        if scope["type"] == "http" and not self._welcome(scope):
            await _refuse(send, self.names)
            return
        if "headers" in scope:  # what a visitor says of our address does not count
            kept = [(k, v) for k, v in scope["headers"] if k.lower() != FORWARDED]
            scope = {**scope, "headers": kept}
        await self.app(scope, receive, send)

    def _welcome(self, scope: Scope) -> bool:
        headers = {
            key.lower(): value.decode("latin-1") for key, value in scope["headers"]
        }
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if FETCH.match(urllib.parse.unquote(scope["path"])):
            return False
        if self.names is not None and _name(host) not in self.names:
            return False
        return origin is None or urllib.parse.urlsplit(origin).netloc == host


def _name(host: str) -> str:
    return re.sub(r":\d+$", "", host).lower()


async def _refuse(send: Any, names: Sequence[str] | None) -> None:
    """Say by which names the page may be asked for, and how to ask by others."""
    text = "refused: this was asked by another page"
    if names is not None:
        text = (
            f"refused: this page answers on {names[0]} and localhost alone. To reach "
            "it by another name, start it with --host and --password-file."
        )
    head = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": head})
    await send({"type": "http.response.body", "body": text.encode()})


def theme() -> gr.themes.Base:
    """Colours with contrast in light and dark; fonts of the system, none fetched."""
    blue, light = "#005a9c", "#8ccbff"
    made: gr.themes.Base = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO
    ).set(
        button_primary_background_fill=blue,
        button_primary_background_fill_hover="#00457a",
        button_primary_background_fill_dark=blue,
        button_primary_background_fill_hover_dark="#0069b5",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        block_label_text_color="#15181d",
        block_label_text_color_dark="#f2f4f7",
        block_info_text_color="#4c5460",
        block_info_text_color_dark="#b4bcc8",
        body_text_color="#15181d",
        body_text_color_dark="#f2f4f7",
        body_text_color_subdued="#4c5460",
        body_text_color_subdued_dark="#b4bcc8",
        body_background_fill="#ffffff",
        body_background_fill_dark="#14171b",
        input_placeholder_color="#5b6471",
        input_placeholder_color_dark="#a5aebb",
        link_text_color=blue,
        link_text_color_dark=light,
    )
    return made


def head() -> str:
    """The page's own scripts, inline: nothing is fetched."""
    return "".join(f"<script>{_static(name)}</script>" for name in SCRIPTS)


def launch(page: gr.Blocks, config: AppConfig, block: bool = True) -> str:
    """Serve the page.

    Args:
        page: From `layout.build`.
        config: Where, and for whom.
        block: Wait until it is ended.

    Returns:
        Its address.
    """
    from starlette.middleware import Middleware

    password = config.password()
    names = (*LOCAL_NAMES, config.named) if config.local else None
    page.queue(default_concurrency_limit=8, api_open=False)
    _, address, _ = page.launch(
        server_name=config.named,
        server_port=config.port,
        auth=None if password is None else knows(password),
        app_kwargs={"middleware": [Middleware(Gate, names=names)]},
        theme=theme(),
        css=_static("page.css"),
        head=head(),
        share=False,
        quiet=True,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=MOST_UPLOAD,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        prevent_thread_lock=True,
    )
    if block:
        page.block_thread()
    return str(address)


def knows(password: str) -> Callable[[str, str], bool]:
    """Whether a name and a password are the right ones."""
    expected = password.encode()

    def check(user: str, said: str) -> bool:
        same = secrets.compare_digest(as_typed(said).encode(), expected)
        return user == USER and same

    return check


def _static(name: str) -> str:
    return (files("app") / "static" / name).read_text(encoding="utf-8")
