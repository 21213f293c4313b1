"""The page before the page: there at once, gone without a trace."""

import socket
import urllib.error
import urllib.request

import pytest

from app import waiting


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ask(port, path="/", method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.urlopen(request, timeout=5)
    with told.value as answer:
        return answer.code, answer.headers, answer.read().decode()


def test_says_that_something_is_coming_whatever_is_asked(port):
    with waiting.page("127.0.0.1", port):
        for path in ("/", "/gradio_api/x?y=<b>"):
            code, headers, text = ask(port, path)
            assert (code, headers[waiting.SIGN]) == (503, "1")
            assert "Starting the page" in text
            assert "<b>" not in text
            assert "//" not in text.split("<script>")[0]  # nothing from elsewhere
        assert ask(port, method="HEAD")[2] == ""


def test_leaves_the_port_to_who_comes_after(port):
    with waiting.page("127.0.0.1", port):
        ask(port)
    with socket.socket() as after:
        after.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        after.bind(("127.0.0.1", port))


def test_a_taken_port_is_left_alone(port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with waiting.page("127.0.0.1", port):
            assert other.fileno() > 0


def test_on_no_address_at_all_nothing_happens():
    with waiting.page("no.such.name.invalid", 1):
        pass
