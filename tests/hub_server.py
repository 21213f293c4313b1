"""A Hub on loopback that speaks to the real huggingface_hub client.

    python -m tests.hub_server 8000     then HF_ENDPOINT=http://127.0.0.1:8000
                                        and HF_TOKEN=hf_ann (or hf_ben, hf_eve)

`requests` keeps everything any client sent; `faults` says what goes wrong and when.
"""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_routes import ROUTES
from tests.hub_store import Refused, Store

USERS = {"hf_ann": "ann", "hf_ben": "ben", "hf_eve": "eve"}


@dataclass
class Fault:
    """What happens to requests that match `pattern` ("POST /api/.*/commit/").

    Attributes:
        kind: status (answer it, do nothing), after (do it, answer status), reset,
            reset-after, cut (the connection ends within the answer), shorter (half of
            the answer, whole by its length), wrong (other bytes of the same number),
            longer, hang, stall (wait `seconds`, then answer), body (answer `body`),
            replace (`old` by `new` in the answer).
        skip: Matching requests to let pass first.
        times: How many to spoil then.
        chance: Of each matching request to be one of those.
    """

    pattern: str
    kind: str = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    old: bytes = b""
    new: bytes = b""
    skip: int = 0
    times: int = 1
    chance: float = 1.0
    seconds: float = 60.0

    def due(self, line, chance):
        """Whether a request is spoilt; `chance` draws a number from 0 to 1."""
        if not re.search(self.pattern, line) or self.times == 0:
            return False
        if self.chance < 1 and chance() >= self.chance:
            return False
        self.skip -= 1
        if self.skip >= 0:
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Sent:
    line: str
    headers: dict[str, str]
    body: bytes


class Server(ThreadingHTTPServer):
    """The Hub, or the host that its downloads come from (`downloads`).

    Attributes:
        commit_seconds: How long a commit takes; others are answered 409 meanwhile.
        lag: Seconds that the answer about a branch's newest commit lags behind.
        downloads: Another server of the same store, which LFS files are fetched from.
        believes_lfs: Whether objects of deleted repositories are believed to be there.
        spoilt: Kind -> how many requests were.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port=0, users=USERS, store=None, name="127.0.0.1"):
        super().__init__(("127.0.0.1", port), Handler)
        self.store = store or Store(dict(users))
        self.requests: list[Sent] = []
        self.faults: list[Fault] = []
        self.random, self.spoilt = random.Random(0), Counter()
        self.usual()
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.url = f"http://{name}:{self.server_port}"

    def usual(self):
        """Nothing goes wrong from now on."""
        self.faults.clear()
        self.requests.clear()
        self.part_bytes: int | None = None
        self.commit_seconds = self.lag = 0.0
        self.commits_a_page, self.entries_a_page = 50, 1000
        self.downloads: Server | None = None
        self.believes_lfs = False

    def __enter__(self):
        poll = {"poll_interval": 0.02}
        threading.Thread(target=self.serve_forever, kwargs=poll, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def fault(self, line):
        with self.lock:
            draw = self.random.random
            found = next((f for f in self.faults if f.due(line, draw)), None)
            if found is not None:
                self.spoilt[f"{found.kind} {found.status}"] += 1
            return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an ACK
    wbufsize = -1

    def log_message(self, *_):
        pass

    def do_GET(self):
        parts = urlsplit(self.path)
        self.query, path = parse_qs(parts.query), parts.path
        self.body = self._body()
        line = f"{self.command} {unquote(self.path)}"
        self.server.requests.append(Sent(line, dict(self.headers), self.body))
        fault = self.server.fault(line)
        kind = fault.kind if fault else ""
        if kind in ("hang", "stall"):
            self.server.ended.wait(fault.seconds)
        if kind in ("reset", "hang"):
            return self._reset()
        if kind in ("status", "body"):
            return self._answer(fault.status, fault.headers, fault.body)
        answer = self._routed(path)
        if kind == "reset-after":
            return self._reset()
        if kind == "after":
            answer = fault.status, fault.headers, b""
        if kind == "wrong":
            answer = *answer[:2], bytes(b ^ 1 for b in answer[2])
        if kind == "replace":
            answer = *answer[:2], answer[2].replace(fault.old, fault.new)
        if kind == "shorter":
            answer = *answer[:2], answer[2][: len(answer[2]) // 2]
        if kind == "longer":
            answer = *answer[:2], answer[2] + b"x" * 100_000
        return self._answer(*answer, cut=kind == "cut")

    do_POST = do_PUT = do_HEAD = do_DELETE = do_GET

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _routed(self, path):
        try:
            self.user = self._user()
            self._sent_on(path)
            for method, pattern, function in ROUTES:
                match = pattern.fullmatch(path)
                wanted = "GET" if self.command == "HEAD" else self.command
                if match and method == wanted:
                    found = {k: unquote(v) for k, v in match.groupdict().items() if v}
                    result = function(self, **found)
                    if not isinstance(result, tuple):
                        result = 200, {}, json.dumps(result).encode()
                    return result
            raise Refused(404, "", f"no route {self.command} {path}")
        except Refused as refused:
            headers = {"X-Error-Message": refused.text, **refused.headers}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            return refused.status, headers, json.dumps({"error": refused.text}).encode()

    def _sent_on(self, path):
        """Raise a redirect where a repository has another name now."""
        for old, new in self.server.store.renamed.items():
            if re.search(rf"/{old}(/|\.git/|$)", path):
                to = self.path.replace(f"/{old}", f"/{new}", 1)
                raise Refused(307, "", "renamed", {"Location": self.server.url + to})

    def _user(self):
        given = self.headers.get("Authorization")
        if given is None:
            return None
        user = self.server.store.users.get(given.removeprefix("Bearer "))
        if user is None:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return user

    def repo(self, name, right="read"):
        repo = self.server.store.repos.get(name)
        if repo is None or repo.right(self.user) == "none":
            raise Refused(404 if self.user else 401, "RepoNotFound", "not found")
        if right == "write" and repo.right(self.user) != "write":
            if self.user is None:
                raise Refused(401, "RepoNotFound", "Invalid username or password.")
            raise Refused(403, "", "pass `create_pr=1` as a query parameter")
        return repo

    def json(self):
        return json.loads(self.body or b"{}")

    def _answer(self, status, headers, body, cut=False):
        self.send_response(status)
        headers = {"Content-Type": "application/json", **headers}
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self):
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.wfile, self.rfile = open("/dev/null", "wb"), open("/dev/null", "rb")


if __name__ == "__main__":
    with Server(int(sys.argv[1]) if sys.argv[1:] else 0) as running:
        print(running.url, "tokens:", *USERS, flush=True)  # noqa: T201
        while True:
            time.sleep(3600)
