"""The server over the wire: every answer is what the experts say alone."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from comigs_mlx import serve
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference import generation
from comigs_mlx.inference.chat_engine import ChatEngine, Settings
from comigs_mlx.serving.access import Access
from comigs_mlx.serving.catalogue import Catalogue
from comigs_mlx.serving.http import Limits, Server
from comigs_mlx.serving.scheduler import Scheduler

OPTIONS = {"specialists": 2, "learning_rate": 0.05}
KEY = "0123456789abcdef"
SAY = [{"role": "user", "content": "Dear diary"}]
ASK = {"model": "notes", "messages": SAY, "temperature": 0, "max_tokens": 6}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GREEDY = Settings(temperature=0.0, max_tokens=6)


@pytest.fixture(scope="module")
def runs(trained):
    other = trained(specialists=1, rank=3, learning_rate=0.05)
    return {"notes": trained(**OPTIONS), "work": other}


@contextlib.contextmanager
def serving(runs, access=None, **options):
    said, limits, access = [], Limits(body=20_000), access or Access()
    scheduler = Scheduler(runs, say=said.append, **options)
    try:
        with Server(("127.0.0.1", 0), scheduler, access, limits, said.append) as server:
            server.catalogue = Catalogue(scheduler.start(), 1)
            server.said = said
            with server.answering():
                yield server
                scheduler.stop(5)
    finally:
        scheduler.stop(0)


@pytest.fixture(scope="module")
def server(runs):
    with serving(runs) as made:
        yield made
    assert not [line for line in made.said if "error" in line], made.said


@pytest.fixture(scope="module")
def expected(runs):
    """(run, messages, settings) -> what the engine of the app says."""
    engine = ChatEngine()

    def say(run, messages=SAY, **settings):
        engine.choose(runs[run])
        return list(engine.reply(messages, replace(GREEDY, **settings)))

    yield say
    engine.close()


def ask(server, path, body=None, method=None, **headers):
    """Status, headers and content of one request."""
    raw = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
    method = method or ("GET" if raw is None else "POST")
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    with contextlib.closing(connection):
        if raw is not None:
            headers = {"Content-Type": "application/json", **headers}
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, raw, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()


def told(server, body, path=CHAT):
    status, _, content = ask(server, path, body)
    assert status == 200, content
    return json.loads(content)


def pieces(server, body, path=CHAT):
    """The objects of a stream."""
    status, headers, content = ask(server, path, {**body, "stream": True})
    assert status == 200, content
    assert headers["Content-Type"].startswith("text/event-stream")
    *events, done, rest = content.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def refused(server, path, body, **headers):
    status, got, content = ask(server, path, body, **headers)
    assert got["Content-Type"].startswith("application/json")
    error = json.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return status, error


def text(tokens):
    return "".join(token.text for token in tokens)


class TestModels:
    def test_lists_what_can_be_asked(self, server):
        status, _, content = ask(server, "/v1/models")
        assert status == 200
        names = [entry["id"] for entry in json.loads(content)["data"]]
        three = ["", ":generalist", ":specialist"]
        assert names == [r + kind for r in ("notes", "work") for kind in three] + [
            "base"
        ]
        _, _, one = ask(server, "/v1/models/notes%3A0.2,0.3,0.5")
        assert json.loads(one)["experts"] == [
            "generalist",
            "specialist",
            "specialist-1",
        ]

    @pytest.mark.parametrize(
        "name",
        ["", "other", "notes:nobody", "notes:0.5,0.5", "notes:nan,1,1", "base:auto"],
    )
    def test_others_are_named(self, server, name):
        status, error = refused(server, CHAT, {**ASK, "model": name})
        assert status == (404 if name else 400)
        assert "choose one of notes, notes:gen" in error["message"] or not name


class TestChat:
    @pytest.mark.parametrize(
        ("model", "run", "selection"),
        [
            ("notes", "notes", "auto"),
            ("notes:specialist", "notes", "specialist"),
            ("notes:0.2,0.3,0.5", "notes", (0.2, 0.3, 0.5)),
            ("work", "work", "auto"),
            ("base", "work", "base"),
        ],
    )
    def test_is_what_the_experts_say(self, server, expected, model, run, selection):
        tokens = expected(run, selection=selection)
        answer = told(server, {**ASK, "model": model})
        (choice,) = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": text(tokens)}
        assert choice["finish_reason"] == "length"
        assert answer["object"] == "chat.completion"
        assert answer["model"] == model
        usage = answer["usage"]
        assert usage["completion_tokens"] == 6
        assert usage["total_tokens"] == usage["prompt_tokens"] + 6

    def test_a_lean_and_a_system_prompt(self, server, expected):
        tokens = expected("notes", lean=3.0, system="Be\n\nbrief")
        system = [
            {"role": "system", "content": "Be"},
            {"role": "developer", "content": "brief"},
        ]
        asked = {**ASK, "messages": [*system, *SAY], "lean": 3.0}
        assert told(server, asked)["choices"][0]["message"]["content"] == text(tokens)

    def test_a_stream_has_the_same_text_routing_and_usage(self, server, expected):
        tokens = expected("notes")
        asked = {**ASK, "routing": True, "stream_options": {"include_usage": True}}
        *found, last = pieces(server, asked)
        choices = [piece["choices"][0] for piece in found]
        assert choices[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in choices) == text(tokens)
        assert [c["finish_reason"] for c in choices] == [None] * 5 + ["length"]
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 6
        assert last["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert {piece["object"] for piece in found} == {"chat.completion.chunk"}
        for choice, token in zip(choices, tokens, strict=True):
            (one,) = choice["routing"]
            assert one["id"] == token.id
            for row, theirs in zip(one["weights"], token.weights, strict=True):
                assert row == pytest.approx(theirs, abs=2e-5)

    def test_probabilities(self, server, expected):
        tokens = expected("notes")
        asked = {**ASK, "logprobs": True, "top_logprobs": 2}
        entries = told(server, asked)["choices"][0]["logprobs"]["content"]
        for entry, token in zip(entries, tokens, strict=True):
            assert entry["token"] == token.own
            assert entry["logprob"] == pytest.approx(token.log_probability, abs=1e-4)
            assert len(entry["top_logprobs"]) == 2
            assert entry["top_logprobs"][0]["token"] == entry["token"]  # greedy

    def test_bias_stop_and_seed(self, server):
        letter = {**ASK, "logit_bias": {"64": 1000}, "max_tokens": 50}  # "a"
        choice = told(server, {**letter, "stop": ["aaaa"]})["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"] == ""
        drawn = {**ASK, "temperature": 1.0}
        first, again, other = (
            told(server, {**drawn, "seed": seed})["choices"] for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_what_was_read_is_read_once(self, server):
        long = [{"role": "user", "content": "the keeper wrote down the wind"}]
        first, again = (told(server, {**ASK, "messages": long})["usage"] for _ in "ab")
        assert (
            again["prompt_tokens_details"]["cached_tokens"]
            == first["prompt_tokens"] - 1
        )


class TestText:
    def test_is_continued_as_it_is(self, server):
        asked = {"model": "base", "prompt": "Dear", "temperature": 0, "max_tokens": 4}
        answer = told(server, {**asked, "logprobs": 1}, TEXT)
        assert answer["object"] == "text_completion"
        (choice,) = answer["choices"]
        assert answer["usage"]["prompt_tokens"] == 4
        logs = choice["logprobs"]
        assert len(logs["tokens"]) == len(logs["token_logprobs"]) == 4
        by_ids = told(server, {**asked, "prompt": [35, 68, 64, 81]}, TEXT)
        assert by_ids["choices"][0]["text"] == choice["text"]
        streamed = pieces(server, asked, TEXT)
        assert "".join(p["choices"][0]["text"] for p in streamed) == choice["text"]

    def test_ids_that_the_model_does_not_know_are_the_clients(self, server):
        asked = {"model": "base", "prompt": [35, 9999], "max_tokens": 4}
        status, error = refused(server, TEXT, asked)
        assert status == 400
        assert error["message"].startswith("the prompt has token id 9999, ")
        assert error["message"].endswith(": give ids of this model's own tokenizer")


def test_many_at_once_get_what_they_get_alone(server):
    """Two runs, four selections and other words, drawn side by side."""
    models = ["notes", "notes:specialist", "work", "notes:0.2,0.3,0.5", "base"]
    asked = [
        {**ASK, "model": model, "messages": [{"role": "user", "content": words}]}
        for model in models
        for words in ("Dear diary", "and then")
    ]
    alone = [told(server, body)["choices"] for body in asked]
    found = [None] * len(asked)

    def one(number):
        found[number] = told(server, asked[number])["choices"]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def stream(server, body):
    """A connection on which an answer has begun."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    raw = json.dumps({**body, "stream": True})
    connection.request("POST", CHAT, raw, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline().startswith(b"data: ")
    return connection, response


def wait(until):
    end = time.monotonic() + 30
    while not until():
        assert time.monotonic() < end
        time.sleep(0.005)


LONG = {**ASK, "max_tokens": 100_000, "logit_bias": {"64": 1000}}


class TestCrowd:
    @pytest.fixture(autouse=True)
    def _endless(self, monkeypatch):
        """No answer ends because the tiny model's context is full."""
        monkeypatch.setattr(generation, "room", lambda base, prompt: 10**6)

    def test_who_leaves_frees_the_place(self, runs):
        with serving(runs, parallel=1, waiting=1) as server:
            connection, response = stream(server, LONG)
            waits = server.scheduler.submit(
                *(
                    next(iter(server.under_way)).__dict__[n]
                    for n in ("request", "model")
                )
            )
            status, error = refused(server, CHAT, ASK)
            assert (status, error["code"]) == (429, "queue_full")
            waits.cancel()  # who has given up waits no more
            response.close()
            connection.close()
            wait(lambda: not server.under_way)
            assert told(server, ASK)["usage"]["completion_tokens"] == 6

    def test_ends_in_order(self, runs):
        with serving(runs, parallel=1) as server:
            connection, response = stream(server, LONG)
            waits = server.scheduler.submit(
                *(
                    next(iter(server.under_way)).__dict__[n]
                    for n in ("request", "model")
                )
            )
            server.scheduler.stop(0)
            rest = response.read().decode().split("\n\n")
            assert (
                json.loads(rest[-2].removeprefix("data: "))["error"]["code"]
                == "stopping"
            )
            assert waits.events.get().status == 503
            assert refused(server, CHAT, ASK)[0] == 503
            assert refused(server, "/health", None)[0] == 503
            connection.close()


HOSTILE = {
    b"": "no JSON",
    b"{": "no JSON",
    b"\xff": "no JSON",
    b"[]": "must be a JSON object",
    b'{"model": "notes", "n": NaN}': "no JSON",
    b'{"a":' * 200 + b"1" + b"}" * 200: "nested too deeply",
    b"[" * 15_000: "nested too deeply",
    b'{"n": ' + b"9" * 10_000 + b"}": "no JSON",
}

WRONG = {
    "model": [None, 1, ["notes"]],
    "messages": [
        None,
        [],
        "hi",
        [1],
        [{"role": "king", "content": "hi"}],
        [{"role": "user", "content": 1}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": "\ud800"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        [{"role": "user", "content": "x" * 10_000}],
        [{"role": "assistant", "content": None, "tool_calls": [1]}],
    ],
    "max_tokens": [0, -1, "6", 1.5, True],
    "temperature": [-1, "hot", 1e300, 10**400, True],
    "top_p": [0, 2],
    "top_k": [-1, 1.5],
    "seed": [-1, 2**64, 0.5],
    "repetition_penalty": [0, -1],
    "frequency_penalty": [10**400],
    "logit_bias": [[], {"x": 1}, {"1": "a"}, {"99999": 1}, {"-1": 1}, {"1": 10**400}],
    "stop": [1, [""], [1], ["a"] * 17, "x" * 201],
    "n": [2, "1"],
    "stream": ["yes"],
    "stream_options": [[], {"include_usage": 1}],
    "logprobs": [3],
    "top_logprobs": [2],
    "lean": [1000, "me"],
    "routing": [1],
    "response_format": [{"type": "json_object"}],
    "tools": [{}, [1], [{"type": "function"}]],
    "tool_choice": ["required", {"type": "function"}],
    "chat_template_kwargs": [1, {"chat_template": "{{ 1 }}"}, {"tokenize": False}],
}


class TestHostile:
    def test_bodies(self, server):
        for body, why in HOSTILE.items():
            status, error = refused(server, CHAT, body)
            assert (status, why in error["message"]) == (400, True), (body[:20], error)

    @pytest.mark.parametrize("name", WRONG)
    def test_values(self, server, name):
        for value in WRONG[name]:
            status, error = refused(server, CHAT, {**ASK, name: value})
            assert status == 400, (value, error)
            assert error["message"]

    def test_a_lean_needs_the_router(self, server):
        status, error = refused(server, CHAT, {**ASK, "model": "base", "lean": 1})
        assert (status, "needs experts auto" in error["message"]) == (400, True)

    def test_too_long_a_conversation_has_its_own_code(self, server):
        long = [{"role": "user", "content": "x" * 10_000}]
        _, error = refused(server, CHAT, {**ASK, "messages": long})
        assert error["code"] == "context_length_exceeded"

    def test_requests(self, server):
        assert refused(server, CHAT, b"x" * 30_000)[0] == 413
        assert refused(server, CHAT, b"{}", Content_Type="text/plain")[0] == 415
        assert refused(server, CHAT, None)[0] == 405
        assert refused(server, "/v1/files", None)[0] == 404
        assert refused(server, "/v1/embeddings", {"input": "a"})[0] == 501
        assert ask(server, CHAT, b"{}", "PUT")[0] == 501
        assert ask(server, CHAT, b"{}", Transfer_Encoding="chunked")[0] == 411
        assert ask(server, "/health?now=1")[0] == 200
        assert refused(server, "//[bad", None)[0] == 404

    def test_what_is_no_http(self, server):
        for line in (
            b"\x16\x03\x01\n\n",
            b"GET\n\n",
            b"GET / HTTP/9.9\n\n",
            b"A" * 70_000 + b"\n",
        ):
            with socket.create_connection(("127.0.0.1", server.server_port)) as client:
                client.sendall(line)
                client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    assert b"Traceback" not in client.recv(10_000)
        assert ask(server, "/health")[0] == 200


@pytest.fixture(scope="module")
def guarded(runs):
    access = Access(KEY, ["http://localhost:3000"], ["Mac.local"])
    with serving(runs, access) as server:
        yield server
    assert KEY not in "".join(server.said)


class TestAccess:
    def test_key(self, guarded):
        for given in (
            {},
            {"Authorization": "Bearer no"},
            {"Authorization": f"Basic {KEY}"},
        ):
            status, error = refused(guarded, CHAT, ASK, **given)
            assert (status, error["code"]) == (401, "invalid_api_key")
        right = {"Authorization": f"Bearer {KEY}"}
        assert ask(guarded, CHAT, ASK, **right)[0] == 200
        assert ask(guarded, "/v1/models", **right)[0] == 200
        assert ask(guarded, "/v1/models")[0] == 401

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("evil.example", 403),
            ("127.0.0.1.evil.example:80", 403),
            ("", 403),
            ("localhost:8080", 200),
            ("[::1]:8080", 200),
            ("mac.local", 200),
        ],
    )
    def test_host(self, guarded, host, status):
        key = {"Authorization": f"Bearer {KEY}", "Host": host}
        assert ask(guarded, "/v1/models", **key)[0] == status

    def test_pages(self, guarded):
        allowed, other = "http://localhost:3000", "http://evil.example"
        status, headers, _ = ask(guarded, CHAT, method="OPTIONS", Origin=allowed)
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, allowed)
        status, headers, _ = ask(guarded, CHAT, method="OPTIONS", Origin=other)
        assert (status, headers["Access-Control-Allow-Origin"]) == (403, None)
        key = {"Authorization": f"Bearer {KEY}"}
        status, headers, _ = ask(guarded, CHAT, ASK, Origin=allowed, **key)
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, allowed)
        assert ask(guarded, CHAT, ASK, Origin=other, **key)[0] == 403


class TestCommand:
    def test_serves_until_a_signal(self, runs, monkeypatch):
        said = []

        def say(line):
            said.append(line)
            if line.startswith("no key is needed"):
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr("comigs_mlx.command.say", say)
        before = signal.getsignal(signal.SIGTERM)
        serve.main(
            ["--run", f"a={runs['notes']}", "--run", str(runs["work"]), "--port", "0"]
        )
        assert signal.getsignal(signal.SIGTERM) is before
        assert "a:specialist" in said[-3]
        assert said[-1].startswith("stopping")

    def test_a_taken_port(self, runs):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            with pytest.raises(ConfigError, match=f"port {port} .* another --port"):
                serve.main(["--run", str(runs["notes"]), "--port", port])

    def test_runs_of_two_bases(self, runs, tmp_path):
        other = shutil.copytree(runs["notes"], tmp_path / "other")
        info = json.loads((other / "comigs.json").read_text())
        info["base_model"]["id"] = "another-model"
        (other / "comigs.json").write_text(json.dumps(info))
        with pytest.raises(ConfigError, match="one base model .*other: another-model"):
            serve.main(["--run", str(runs["notes"]), str(other), "--port", "0"])

    @pytest.mark.parametrize(
        ("flags", "why"),
        [
            ([], "--run DIR is missing"),
            (["--run", "a/x", "b/x"], "there is a run x already, a/x"),
            (["--run", "base=x"], "'base' cannot be the name"),
            (["--run", "x", "--host", "0.0.0.0"], "would let others in: add --api-key"),
            (["--run", "x", "--cors-origin", "*"], "beginning of a page's address"),
            (["--run", "x", "--parallel", "0"], "--parallel 0 must be from 1"),
            (["--run", "no-such-run", "--port", "0"], "no-such-run"),
        ],
    )
    def test_options_that_cannot_work(self, cli, flags, why):
        code, _, err = cli(serve.main, *flags)
        assert (code, why in err) == (2, True), err

    def test_a_key_is_told_nobody(self, cli, tmp_path):
        file = Path(tmp_path / "key")
        for content in (b"quite-short", b"two words are no key at all", b"\xff\xfe"):
            file.write_bytes(content)
            given = ["--run", "x", "--api-key-file", str(file)]
            code, out, err = cli(serve.main, *given)
            assert code == 2
            assert not any(word in out + err for word in ("quite", "two words"))
            assert "--api-key-file" in err


class TestConnections:
    def connected(self, server):
        return socket.create_connection(("127.0.0.1", server.server_port), timeout=30)

    def test_who_sends_nothing_more_is_hung_up_on(self):
        limits = Limits(seconds=0.1)
        with Server(("127.0.0.1", 0), None, Access(), limits) as server:
            with server.answering(), self.connected(server) as client:
                client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
                assert client.recv(100) == b""
            with server.answering(), self.connected(server) as client:
                head = b"Host: localhost\r\nContent-Type: application/json\r\n"
                start = b"POST /v1/completions HTTP/1.1\r\n"
                client.sendall(start + head + b"Content-Length: 9\r\n\r\n{")
                while client.recv(1000):
                    pass

    def test_more_than_there_is_place_for_are_sent_away(self):
        def answer():
            with contextlib.suppress(ConnectionError), self.connected(server) as client:
                client.sendall(b"GET /v1/none HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return client.recv(12)

        limits = Limits(connections=1)
        with Server(("127.0.0.1", 0), None, Access(), limits) as server:
            with server.answering():
                with self.connected(server) as first:
                    first.sendall(b"GET")
                    with self.connected(server) as second:
                        assert second.recv(12) == b"HTTP/1.1 503"
                wait(lambda: answer() == b"HTTP/1.1 404")
