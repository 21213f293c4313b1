"""The gate in front of the page, and the page's own scripts."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from app import server
from app.options import AppConfig
from app.server import Gate


def ask(path="/", names=server.LOCAL_NAMES, **headers):
    """Status of a request through the gate to an app that answers 200."""
    return answer(path, names, **headers)[0]["status"]


def answer(path="/", names=server.LOCAL_NAMES, seen=None, **headers):
    """What is sent for a request; `seen` gets the scope that the app is given."""
    told = []

    async def app(scope, receive, send):
        if seen is not None:
            seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        told.append(message)

    given = [(k.encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "path": path, "headers": given}
    asked = Gate(app, names)(scope, None, send)
    with ThreadPoolExecutor(1) as thread:  # Playwright has a loop in the main one
        thread.submit(asyncio.run, asked).result()
    return told


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:80"])
def test_this_machines_names_are_answered(host):
    assert ask(host=host) == 200
    assert ask(host=host, origin=f"http://{host}") == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},  # its name pointed at this machine
        {"host": "127.0.0.1.evil.example:7860"},
        {"host": ""},
        {"host": "127.0.0.1:7860", "origin": "http://evil.example"},
        {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:9999"},
        {"host": "127.0.0.1:7860", "origin": "null"},
    ],
)
def test_foreign_pages_are_refused(headers):
    assert ask(**headers) == 403


def test_a_name_of_this_machine_that_is_not_served_is_told_what_helps():
    told = answer(host="mac.local")
    assert told[0]["status"] == 403
    assert told[1]["body"] == (
        b"refused: this page answers on 127.0.0.1 and localhost alone. To reach it by "
        b"another name, start it with --host and --password-file."
    )


def test_a_visitor_does_not_say_where_the_page_is():
    """Gradio builds the page's addresses from X-Forwarded-Host."""
    seen = []
    given = {"host": "localhost", "X-Forwarded-Host": "evil.example"}
    answer(seen=seen, **given)
    assert [name for name, _ in seen[0]["headers"]] == [b"host"]


def test_with_a_password_other_names_are_answered_but_no_foreign_page():
    assert ask(names=None, host="mac.local") == 200
    assert ask(names=None, host="mac.local", origin="http://evil.example") == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://10.0.0.1/",
        "/gradio_api/file%3Dhttps://example.com",
        "/gradio_api/proxy=https://example.com/x",
        "/file=http:/example.com",
    ],
)
def test_the_server_fetches_nothing_from_elsewhere(path):
    assert ask(path, host="127.0.0.1") == 403


def test_scripts_and_styles_name_no_other_place():
    made = server.head() + server._static("page.css")
    found = set(re.findall(r"https?://[^\s\"']+", made))
    assert found == {"http://www.w3.org/2000/svg"}  # a name, not fetched
    for name in server.SCRIPTS:
        assert "</script" not in server._static(name)


def test_scripts_never_write_markup():
    for name in server.SCRIPTS:
        words = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write")
        assert not [word for word in words if word in server._static(name)]


class FakePage:
    """Notes how it would be launched."""

    def queue(self, **given):
        pass

    def launch(self, **given):
        self.given = given
        return None, "http://there", None


def launched(**options):
    page = FakePage()
    server.launch(page, AppConfig(**options), block=False)
    (gate,) = page.given["app_kwargs"]["middleware"]
    return page.given, gate.kwargs["names"]


def test_this_machine_alone_is_served_by_its_own_names():
    given, names = launched()
    assert names == (*server.LOCAL_NAMES, "127.0.0.1")
    assert given["auth"] is None
    assert given["server_name"] == "127.0.0.1"


def test_others_need_the_password(tmp_path):
    (file := tmp_path / "password").write_text("correct horse")
    given, names = launched(host="::", password_file=str(file))
    assert names is None
    assert given["server_name"] == "[::]"
    assert given["auth"]("me", "correct horse")
    assert not given["auth"]("me", "wrong horse")


def test_nothing_is_opened_wider():
    given, _ = launched()
    assert given["max_file_size"] == "1gb"
    assert given["allowed_paths"] == []
    off = ("share", "ssr_mode", "mcp_server", "pwa", "enable_monitoring", "run_history")
    assert not any(given[name] for name in off)
