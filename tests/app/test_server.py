"""The gate in front of the page, and the page's own scripts."""

import asyncio
import importlib
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import pytest

from app.options import USER, AppConfig


class Lazy:
    """`app.server`, imported when it is asked for: Gradio takes seconds of a worker.

    While it collects, pytest asks every global for names that begin so.
    """

    def __getattr__(self, name):
        if name.startswith(("__", "_pytest", "pytest")):
            raise AttributeError(name)
        return getattr(importlib.import_module("app.server"), name)


server = Lazy()


def ask(path="/", **headers):
    """Status of a request through the gate to an app that answers 200."""
    names = headers.pop("names", server.LOCAL_NAMES)
    return asked(path, names, headers)[0][0]["status"]


def asked(path, names, headers, kind="http"):
    """Messages that came back, and the headers that came through."""
    told, through = [], []

    async def app(scope, receive, send):
        through.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        told.append(message)

    given = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": kind, "path": path, "headers": given}
    answer = server.Gate(app, names)(scope, None, send)
    with ThreadPoolExecutor(1) as thread:  # Playwright has a loop in the main one
        thread.submit(asyncio.run, answer).result()
    return told, dict(through)


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


def test_scripts_write_markup_in_one_place_alone():
    words = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write")
    text = "".join(map(server._static, server.SCRIPTS))
    assert [text.count(word) for word in words] == [1, 0, 0, 0]
    assert "function rendered(node, html) {\n    node.innerHTML = html;" in text


def test_a_refusal_says_how_to_come_in():
    told, _ = asked("/", server.LOCAL_NAMES, {"host": "mac.local:7860"})
    body = told[1]["body"].decode()
    assert told[0]["status"] == 403
    assert "127.0.0.1 or localhost" in body
    assert "--host and --password-file" in body
    assert "mac.local" not in body  # nothing that was sent comes back


def test_a_websocket_is_refused_like_a_page():
    told, _ = asked("/", server.LOCAL_NAMES, {"host": "evil.example"}, "websocket")
    assert told == [{"type": "websocket.close", "code": 1008}]


def test_nobody_can_say_under_which_name_the_page_is_asked_for():
    headers = {
        "host": "127.0.0.1:7860",
        "x_forwarded_host": "evil.example",
        "X_Forwarded_Proto": "https",
        "x_forwarded_prefix": "/x",
        "forwarded": "host=evil.example",
        "accept": "text/html",
    }
    _, through = asked("/", None, headers)
    assert set(through) == {b"host", b"accept"}


class Page:
    """Remembers how it was served."""

    def queue(self, **given):
        self.queued = given

    def launch(self, **given):
        self.launched = given


@pytest.fixture
def launched(tmp_path):
    """(options) -> how the page was served, and its address."""

    def serve(**given):
        if "password" in given:
            file = tmp_path / "password"
            file.write_text(given.pop("password"), encoding="utf-8")
            given["password_file"] = str(file)
        page = Page()
        address = server.launch(page, AppConfig(**given), block=False)
        return page.launched, address

    return serve


def names_of(launched):
    (gate,) = launched["app_kwargs"]["middleware"]
    return gate.kwargs["names"]


def test_on_this_machine_only_its_names_are_answered(launched):
    given, address = launched()
    assert set(names_of(given)) == {"127.0.0.1", "localhost", "[::1]"}
    assert given["auth"] is None
    assert given["share"] is False
    assert address == "http://127.0.0.1:7860/"
    given, address = launched(host="::1", port=80)
    assert given["server_name"] == "[::1]"
    assert address == "http://[::1]:80/"
    assert "[::1]" in names_of(given)


def test_with_a_password_it_is_asked_for(launched):
    given, _ = launched(host="0.0.0.0", password="caf\u00e9 du monde")
    right = given["auth"]
    assert names_of(given) is None
    assert right(USER, "caf\u00e9 du monde")
    assert right(USER, "cafe\u0301 du monde")  # as another keyboard spells it
    assert not right(USER, "cafe du monde")
    assert not right("you", "caf\u00e9 du monde")
    assert not right(USER, "")


def test_a_local_page_with_a_password_asks_for_it_too(launched):
    given, _ = launched(password="correct horse")
    assert given["auth"](USER, "correct horse")
    assert names_of(given) is not None


def test_uploads_have_a_limit_and_no_folder_is_served(launched):
    given, _ = launched()
    assert given["max_file_size"] == "1gb"
    assert given["allowed_paths"] == []


def test_no_style_has_a_list_that_gradio_takes_apart():
    """It puts the page before every part of a list, also of one inside :has or :not.

    There the page is not found, and the rule says something else: a download's bar was
    hidden by one for as long as it was told.
    """
    folder = files("app") / "static"
    text = "".join((folder / name).read_text() for name in server.STYLES)
    assert re.findall(r":(?:has|not)\([^()]*(?:\([^()]*\)[^()]*)*,[^()]*\)", text) == []
