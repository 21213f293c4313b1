"""How the page is served: to whom, with what, and what is refused."""

from __future__ import annotations

import hmac
import re
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from .options import USER, AppConfig, spelled

STYLES = ("page.css", "sidebar.css", "chat.css", "train.css", "share.css")
WHOLE_STYLES = ("views.css",)
"""Those with rules that Gradio would drop, such as @container: they go as they are."""

SCRIPTS = (
    "page.js",
    "marks.js",
    "drawer.js",
    "focus.js",
    "remedies.js",
    "views.js",
    "talk.js",
    "compare.js",
    "look.js",
    "train.js",
    "share.js",
    "sidebar.js",
)
"""In the order in which they build on one another."""

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a page of this machine is asked for."""

FETCH = re.compile(r"/(gradio_api/)?(file|proxy)=?/?https?:", re.IGNORECASE)
"""Requests that would have the server fetch something from elsewhere."""

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
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await _refuse(scope, send, refusal)
        else:
            own = [(k, v) for k, v in scope["headers"] if not _forwarded(k)]
            await self.app({**scope, "headers": own}, receive, send)

    def _refusal(self, scope: Scope) -> str:
        """Why a request is not answered; empty where it is."""
        headers = {
            key.lower(): value.decode("latin-1") for key, value in scope["headers"]
        }
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if FETCH.match(urllib.parse.unquote(scope["path"])):
            return "This page fetches nothing from elsewhere."
        if self.names is not None and _name(host) not in self.names:
            return (
                f"This page answers on its own machine alone, as {self.names[0]} or "
                "localhost: open it under that name. To reach it under another name, "
                "start it with --host and --password-file."
            )
        if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
            return "Another page asked for this one: open it directly."
        return ""


def _name(host: str) -> str:
    return re.sub(r":\d+$", "", host).lower()


def _forwarded(key: bytes) -> bool:
    """Whether a header says for whom a proxy asks.

    Whoever asks can write it, and Gradio would build the page's addresses from it.
    """
    return key.lower() == b"forwarded" or key.lower().startswith(b"x-forwarded-")


async def _refuse(scope: Scope, send: Any, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    head = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": head})
    await send({"type": "http.response.body", "body": f"Refused. {why}\n".encode()})


def sign_in(password: str) -> Callable[[str, str], bool]:
    """Whether a name and a password are right; told apart in constant time."""

    def right(user: str, given: str) -> bool:
        pairs = ((user, USER), (spelled(given), password))
        same = [hmac.compare_digest(a.encode(), b.encode()) for a, b in pairs]
        return all(same)

    return right


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
    """The page's own scripts and whole style sheets, inline: nothing is fetched."""
    styles = "".join(f"<style>{_static(name)}</style>" for name in WHOLE_STYLES)
    return styles + "".join(f"<script>{_static(name)}</script>" for name in SCRIPTS)


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
    names = (*LOCAL_NAMES, config.name.lower()) if config.local else None
    page.queue(default_concurrency_limit=8, api_open=False)
    page.launch(
        server_name=config.name,
        server_port=config.port,
        auth=None if password is None else sign_in(password),
        app_kwargs={"middleware": [Middleware(Gate, names=names)]},
        theme=theme(),
        css="".join(map(_static, STYLES)),
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
    return config.url


def _static(name: str) -> str:
    return (files(__package__) / "static" / name).read_text(encoding="utf-8")
