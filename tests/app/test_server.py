"""The gate in front of the page, and the page's own scripts."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from app import server
from app.server import Gate


def ask(path="/", names=server.LOCAL_NAMES, **headers):
    """Status of a request through the gate to an app that answers 200."""
    told = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        told.append(message)

    given = [(k.encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "path": path, "headers": given}
    asked = Gate(app, names)(scope, None, send)
    with ThreadPoolExecutor(1) as thread:  # Playwright has a loop in the main one
        thread.submit(asyncio.run, asked).result()
    return told[0]["status"]


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


def test_scripts_never_write_markup():
    for name in server.SCRIPTS:
        words = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write")
        assert not [word for word in words if word in server._static(name)]
