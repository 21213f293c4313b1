"""One connection: who may ask, what is asked, and how the answer is written.

Python's own server, a thread for each connection. It is made for this machine and for
few clients: it has no encryption, so give it a key and an encrypted way, such as an SSH
tunnel, before others can reach it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import selectors
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from comigs_mlx.inference.replies import SpokenToken
from comigs_mlx.messages import Say
from comigs_mlx.serving import requests
from comigs_mlx.serving.access import Access
from comigs_mlx.serving.catalogue import Catalogue
from comigs_mlx.serving.refusals import Refusal, stopping, where
from comigs_mlx.serving.replies import Reply
from comigs_mlx.serving.requests import Request
from comigs_mlx.serving.scheduler import Begun, Scheduler, Ticket

ASKED = {
    "/v1/chat/completions": requests.chat,
    "/v1/completions": requests.completion,
}
"""Path -> what makes a request of a body."""

LOOK_SECONDS = 0.25
"""How often a thread that waits for a token looks whether its client is still there."""

ALIVE_SECONDS = 15.0
"""After so long without a token a stream gets a comment: no proxy ends it then."""

LAST_SECONDS = 2.0
"""How long the last words of answers may take at the end."""

METHODS = ("GET", "POST", "OPTIONS")


@dataclass(frozen=True)
class Limits:
    """How much of this machine others can take.

    Attributes:
        body: The bytes of a request's body, at most.
        connections: The connections at the same time, at most.
        seconds: The time that a client has to send its request, and to take a piece
            of the answer.
    """

    body: int = 4 * 2**20
    connections: int = 128
    seconds: float = 60.0


class Server(ThreadingHTTPServer):
    """Listens, and gives each connection a thread of its own.

    Attributes:
        catalogue: The models; to be set before `answering`.
    """

    catalogue: Catalogue
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        scheduler: Scheduler,
        access: Access,
        limits: Limits = Limits(),
        say: Say = lambda sentence: None,
    ):
        """Listen at an address; nobody is answered before `answering`.

        Args:
            address: The address and the port; port 0 takes a free one.
            scheduler: The scheduler that answers.
            access: The rules of who may ask.
            limits: The limits of what others can take.
            say: Receives a line for each request: no text of it, and no key.

        Raises:
            OSError: If the port is taken, or there is no such address here.
        """
        self.scheduler, self.access = scheduler, access
        self.limits, self.say = limits, say
        self._places = threading.BoundedSemaphore(limits.connections)
        self.under_way: set[Ticket] = set()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Take the port, without asking the network for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), port

    @property
    def url(self) -> str:
        """The address that clients are given."""
        host = self.server_name
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/v1"

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Answer inside the `with`; at its end, let the last words be written."""
        thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            deadline = time.monotonic() + LAST_SECONDS
            while self.under_way and time.monotonic() < deadline:
                time.sleep(0.01)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, if there is a place for it."""
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.settimeout(1.0)
                request.sendall(b"HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer on one connection, then give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone; of an error of ours one line."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.say(where(error))


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one after another."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "comigs", ""

    def setup(self) -> None:
        """Give a client so many seconds for each part of its request."""
        super().setup()
        self.connection.settimeout(self.server.limits.seconds)
        self._begun = False  # whether a status has been sent
        self._unread = 0  # bytes of a body

    def do_GET(self) -> None:
        """Tell what models there are."""
        self._guarded(self._get)

    def do_POST(self) -> None:
        """Answer a conversation or a prompt."""
        self._guarded(self._post)

    def do_OPTIONS(self) -> None:
        """Tell a browser whether a page may ask."""
        self._guarded(self._preflight, key=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing by itself: `_log` says one line for each request."""

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """A request that Python's server does not understand, refused in JSON."""
        self._begun = False
        self.close_connection = True
        if not hasattr(self, "headers"):
            self.headers = None  # type: ignore[assignment]
        self._refuse(Refusal(int(code), message or "the request is no HTTP"))

    def _guarded(self, answer: Callable[[], None], key: bool = True) -> None:
        """Check who asks, answer, and turn every error into one in JSON.

        Args:
            answer: Writes the response.
            key: Whether the key is needed.
        """
        self._begun, self._said = False, ""
        start = time.monotonic()
        try:
            self._unread = self._length() if "Content-Length" in self.headers else 0
            if "Transfer-Encoding" in self.headers:
                self._unread = 1  # of unknown length
            access, headers = self.server.access, self.headers
            access.check_host(headers.get("Host"))
            access.check_origin(headers.get("Origin"))
            if key and self._path() != "/health":
                access.check_key(headers.get("Authorization"))
            answer()
        except Refusal as refusal:
            self._refuse(refusal)
        except OSError:  # the client has gone, or is too slow
            self.close_connection, self._said = True, "left"
        except Exception as error:
            self.server.say(where(error))
            self._refuse(Refusal(500, "an error of this server"))
        self._log(time.monotonic() - start)

    def _path(self) -> str:
        return self.path.partition("?")[0].rstrip("/")

    def _log(self, seconds: float) -> None:
        path = self._path()
        known = (*ASKED, "/v1/models", "/v1/embeddings", "/health")
        shown = next((each for each in known if path.startswith(each)), "(other path)")
        self.server.say(f"{self.command} {shown}  {self._said}  {seconds:.2f} s")

    def _get(self) -> None:
        path = self._path()
        if path == "/health":
            if not self.server.scheduler.answering:
                raise stopping()
            self._send(200, {"status": "ok"})
        elif path == "/v1/models":
            self._send(200, self.server.catalogue.entries())
        elif path.startswith("/v1/models/"):
            name = urllib.parse.unquote(path.removeprefix("/v1/models/"))
            catalogue = self.server.catalogue
            self._send(200, catalogue.entry(catalogue.find(name)))
        else:
            raise self._not_found(path)

    def _not_found(self, path: str) -> Refusal:
        if path in (*ASKED, "/v1/models"):
            return Refusal(405, f"{path} does not take {self.command}")
        return Refusal(
            404,
            "there is no such path: this server has /v1/models, "
            f"{', '.join(ASKED)} and /health",
        )

    def _post(self) -> None:
        body = self._body()
        path = self._path()
        if path == "/v1/embeddings":
            raise Refusal(
                501,
                "embeddings are not offered: mlx-lm makes none from these models",
                code="not_implemented",
            )
        if path not in ASKED:
            raise self._not_found(path)
        request = ASKED[path](requests.parse(body))
        model = self.server.catalogue.find(request.model)
        ticket = self.server.scheduler.submit(request, model)
        self.server.under_way.add(ticket)
        try:
            self._answer(request, ticket)
        finally:
            ticket.cancel()
            self.server.under_way.discard(ticket)

    def _length(self) -> int:
        """The length of the body in bytes.

        Raises:
            Refusal: If it is not known, or no number.
        """
        length = self.headers.get("Content-Length")
        if "Transfer-Encoding" in self.headers or length is None:
            raise Refusal(411, "the body must come with a Content-Length")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            raise Refusal(400, "the Content-Length is no number of bytes")
        return int(length)

    def _body(self) -> bytes:
        """The body, which must be JSON of a moderate length.

        A web page can send other types without asking first.

        Raises:
            Refusal: If it is too long or of another type.
        """
        length, most = self._length(), self.server.limits.body
        if length > most:
            raise Refusal(413, f"the body has more than {most:,} bytes: shorten it")
        kind = self.headers.get_content_type()
        if kind != "application/json":
            raise Refusal(415, "the body must be of the type application/json")
        body = self.rfile.read(length)
        self._unread = 0
        if len(body) < length:
            raise ConnectionError("the client has gone")
        return body

    def _discard(self) -> None:
        """Read some of a body that is refused, so that the refusal is read, too.

        A connection that is closed with something unread is reset, and its client may
        never see why.
        """
        left = min(self._unread, 4 * self.server.limits.body)
        self.connection.settimeout(1.0)
        with contextlib.suppress(OSError):
            while left and (some := self.rfile.read1(min(left, 2**16))):
                left -= len(some)

    def _preflight(self) -> None:
        if self.headers.get("Origin") is None:
            raise Refusal(403, "no page asks: send the request itself")
        self._status(204)
        self.send_header("Access-Control-Allow-Methods", "GET, POST")
        self.send_header("Access-Control-Allow-Headers", "authorization, *")
        self.send_header("Access-Control-Max-Age", "600")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, request: Request, ticket: Ticket) -> None:
        reply = Reply(request)
        events = self._events(ticket, request.stream)
        begun = next(events)
        assert isinstance(begun, Begun)
        reply.begin(begun.read, begun.cached, begun.splitter)
        if request.stream:
            self._stream(reply, events, request)
        else:
            for token in events:
                assert isinstance(token, SpokenToken)
                reply.add(token)
            self._send(200, reply.whole())
        self._said = f"{self._said}  {request.model}  {reply.tokens} tokens"

    def _events(self, ticket: Ticket, stream: bool) -> Iterator[Begun | SpokenToken]:
        """What happens to a request, as long as its client is there.

        Raises:
            Refusal: If it cannot be answered.
            ConnectionError: If the client has gone.
        """
        quiet = time.monotonic()
        while True:
            try:
                event = ticket.events.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if self._gone():
                    raise ConnectionError("the client has gone") from None
                if stream and self._begun and time.monotonic() - quiet > ALIVE_SECONDS:
                    self._write(": still here\n\n")
                    quiet = time.monotonic()
                continue
            if isinstance(event, Refusal):
                raise event
            yield event
            quiet = time.monotonic()
            if isinstance(event, SpokenToken) and event.finish_reason is not None:
                return

    def _gone(self) -> bool:
        """Whether the client has closed its side."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            if not selector.select(0):
                return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _stream(self, reply: Reply, events: Iterator[Any], request: Request) -> None:
        """Write pieces as they come; what fails after the first one is a piece, too."""
        self.close_connection = True  # the end of the stream is that of the connection
        self._status(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        try:
            for token in events:
                if (piece := reply.add(token)) is not None:
                    self._write(f"data: {_json(piece)}\n\n")
        except Refusal as refusal:
            self._said = f"{refusal.status} in the stream"
            self._write(f"data: {_json(refusal.to_json())}\n\n")
            return
        if request.usage:
            self._write(f"data: {_json(reply.usage_piece())}\n\n")
        self._write("data: [DONE]\n\n")

    def _write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def _status(self, status: int) -> None:
        """The first line, and the headers that all responses have."""
        self._begun, self._said = True, str(status)
        self.send_response(status)
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        origin = self.headers.get("Origin") if self.headers else None
        if origin is not None and origin in self.server.access.origins:
            self.send_header("Access-Control-Allow-Origin", origin)
            self.send_header("Vary", "Origin")

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = _json(content).encode()
        self._status(status)
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if status in (429, 503):
            self.send_header("Retry-After", "1")
        if status == 405:
            self.send_header("Allow", ", ".join(METHODS))
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, refusal: Refusal) -> None:
        """Send a refusal; on a connection whose body was not read, the last thing."""
        if self._begun:  # too late to say it
            self.close_connection = True
            return
        if self._unread:
            self.close_connection = True
            self._discard()
        with contextlib.suppress(OSError):
            self._send(refusal.status, refusal.to_json())


def _json(content: Any) -> str:
    # Half characters, which a model's bytes may make, are written as escapes.
    return json.dumps(content, separators=(",", ":"))
