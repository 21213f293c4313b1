"""`python -m comigs_mlx.serve`: runs for every program that speaks OpenAI's API."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from comigs_mlx import command
from comigs_mlx.config import like, option, parse
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.options import SpeakerOptions

if TYPE_CHECKING:
    from comigs_mlx.serving.access import Access
    from comigs_mlx.serving.http import Server
    from comigs_mlx.serving.scheduler import Scheduler

SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOP_SECONDS = 5.0
"""What answers under way have to end by themselves, once the server is to stop."""

MOST_PARALLEL = 64


@dataclass(frozen=True)
class ServeConfig:
    """Answer other programs on this machine, as OpenAI's API does.

    A request chooses the run and who speaks by the name of its model: NAME (the
    router), NAME:generalist, NAME:specialist, NAME:0.3,0.7, or base. The base is loaded
    once. Settings for Open WebUI, Zed and Continue stand in docs/serve.md.

      python -m comigs_mlx.serve --run runs/notes
      python -m comigs_mlx.serve --run runs/notes --run work=runs/2024-b --port 8081
      curl http://127.0.0.1:8080/v1/chat/completions \\
          -H 'Content-Type: application/json' -d '{"model": "notes:specialist",
          "messages": [{"role": "user", "content": "What did I plan for May?"}]}'
    """

    run: tuple[str, ...] = option(
        (),
        "folder of a run, called as the folder is, or as NAME says; several of one "
        "base model may be given",
        "[NAME=]DIR",
    )
    best: bool = like(SpeakerOptions, "best")
    host: str = option(
        "127.0.0.1",
        "address to listen on; other than this machine's own needs --api-key-file",
        "ADDRESS",
    )
    port: int = option(8080, "port to listen on; 0 takes a free one", "PORT")
    api_key_file: str | None = option(
        None, "file with the key that every request must bring", "FILE"
    )
    cors_origin: tuple[str, ...] = option(
        (), "web pages that may ask, such as http://localhost:3000", "ORIGIN"
    )
    allow_host: tuple[str, ...] = option(
        (), "further names that the server may be asked for by", "NAME"
    )
    parallel: int = option(8, "answers that are drawn at the same time", "N")
    queue: int = option(32, "requests that may wait; more are refused", "N")
    prompt_cache_mb: int = option(
        512, "memory for what was read, to be used again in the next turn", "MB"
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        from comigs_mlx.serving.access import ORIGIN, is_local
        from comigs_mlx.serving.catalogue import run_names

        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        try:
            run_names(self.run)
        except ConfigError as error:
            yield str(error)
        if not is_local(self.address) and self.api_key_file is None:
            yield (
                f"--host {self.host} would let others in: add --api-key-file FILE, or "
                "leave --host out"
            )
        if not 0 <= self.port <= 65535:
            yield f"--port {self.port} must be from 0 to 65535"
        for origin in self.cors_origin:
            if not ORIGIN.fullmatch(origin):
                yield (
                    f"--cors-origin {origin} must be the beginning of a page's address "
                    "without a path, such as http://localhost:3000"
                )
        if not 1 <= self.parallel <= MOST_PARALLEL:
            yield f"--parallel {self.parallel} must be from 1 to {MOST_PARALLEL}"
        if self.queue < 1:
            yield f"--queue {self.queue} must be at least 1"
        if self.prompt_cache_mb < 0:
            yield f"--prompt-cache-mb {self.prompt_cache_mb} must be at least 0"

    @property
    def address(self) -> str:
        """The host without the brackets that addresses put around IPv6."""
        return self.host.removeprefix("[").removesuffix("]")


def main(argv: Sequence[str] | None = None) -> None:
    """Load everything once, answer until a signal comes, then end in order."""
    config = parse(ServeConfig, "comigs_mlx.serve", argv)
    from comigs_mlx.serving.access import Access, read_key
    from comigs_mlx.serving.catalogue import Catalogue, run_names
    from comigs_mlx.serving.scheduler import Scheduler

    key = None if config.api_key_file is None else read_key(config.api_key_file)
    names = (config.address, socket.gethostname(), *config.allow_host)
    access = Access(key, config.cors_origin, names)
    runs = {n: Path(f).expanduser() for n, f in run_names(config.run).items()}
    limits = (config.parallel, config.queue, config.prompt_cache_mb * 2**20)
    scheduler = Scheduler(runs, *limits, config.best, command.say)
    try:
        # The port first: that it is taken is known before a base is loaded.
        with _listening(config, scheduler, access) as server:
            server.catalogue = Catalogue(scheduler.start(), int(time.time()))
            with _until_signal() as stopped, server.answering():
                _tell(server, key is not None)
                stopped.wait()
                command.say("stopping (once more ends it at once)")
                scheduler.stop(STOP_SECONDS)
    finally:
        scheduler.stop(0)


@contextlib.contextmanager
def _listening(
    config: ServeConfig, scheduler: Scheduler, access: Access
) -> Iterator[Server]:
    """The server, which holds its port until the end of the `with`."""
    from comigs_mlx.serving.http import Server

    address = (config.address, config.port)
    try:
        server = Server(address, scheduler, access, say=command.say)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port} "
            f"({error.strerror or error}): choose another --port or --host"
        ) from error
    with server:
        yield server


@contextlib.contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; the second of them does what it did."""
    stopped = threading.Event()
    before = {name: signal.getsignal(name) for name in SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        stopped.set()

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    for name in SIGNALS:
        signal.signal(name, stop)
    try:
        yield stopped
    finally:
        restore()


def _tell(server: Server, locked: bool) -> None:
    """Say where the server is, what it offers, and whether a key is needed."""
    lines = [
        f"ready: {server.url}",
        f"models: {', '.join(server.catalogue.names())}",
        "every request needs the key"
        if locked
        else "no key is needed: every program on this machine may ask",
    ]
    for each in lines:
        command.say(each)


if __name__ == "__main__":
    command.run(main)
