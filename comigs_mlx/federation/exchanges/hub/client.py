"""Limits huggingface_hub: every request ends, and this program decides on retries.

The library waits without end for a silent server and sleeps as long as one asks it to.
Within `patiently` each request gets a time limit, and an answer that says "later" (see
`retry_after.later`) is raised as `Unreachable` instead of being slept on. Outside of it
(mlx-lm's downloads in this process) the library behaves as always.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from comigs_mlx import environment
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import NotAllowed, Say, Unreachable
from comigs_mlx.federation.exchanges.hub import internals
from comigs_mlx.federation.exchanges.hub.errors import (
    STRAY,
    Garbled,
    Missing,
    translated,
)
from comigs_mlx.federation.exchanges.hub.retry_after import later, pause

CONNECT, READ = 10.0, 60.0
"""The most seconds for a connection, and between two pieces of an answer."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""The seconds before trying again where the Hub names none; doubled each time."""

DOUBTFUL_TRIES = 5
"""The tries in a row after an error that may pass or may be final: an answer that makes
no sense, a file that is gone. With the waits above they take ten seconds."""

T = TypeVar("T")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@functools.cache
def library() -> Any:
    """Return the module huggingface_hub, set up once per process."""
    # xet uploads bypass the client, and with it every limit set here. The library reads
    # the variable at import, and mlx-lm may have imported it already: hence both.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    import huggingface_hub
    from huggingface_hub import constants

    internals.check()
    constants.HF_HUB_DISABLE_XET = True
    inner = internals.client_factory()  # the user's own (a proxy, certificates)
    huggingface_hub.set_client_factory(lambda: _limited(inner()))
    return huggingface_hub


@functools.cache
def version() -> str:
    """Return this program's version, for the requests' user agent."""
    return environment.version("comigs-mlx", missing="unknown")  # a copy of the source


def patiently(
    action: Callable[[], T],
    where: str,
    patience: float,
    say: Say,
    again: Callable[[Exception], bool] = lambda error: False,
) -> T:
    """Return the result of `action`, tried again for up to `patience` seconds.

    Args:
        action: A function that calls the library; it must not use the state of an
            earlier try.
        where: The name of the repository, for the texts of errors.
        patience: The seconds to go on trying; a request under way may add its own
            limit.
        say: Receives a sentence before each wait, on what is waited for.
        again: Tells whether to try again after an error of ours that is not passing.

    Raises:
        FederationError: If it fails. The text is ours: the library's can quote a
            header, so it is never shown.
    """
    end, wait = time.monotonic() + patience, FIRST_WAIT
    error: FederationError | None = None
    doubtful = 0
    while True:
        before = type(error)
        with _within(end):
            try:
                return action()
            except Exception as raised:
                error = translated(raised, where)
        requested_wait = error.after if isinstance(error, Unreachable) else None
        seconds = pause(requested_wait, wait, FIRST_WAIT)
        is_repeated = type(error) is before
        doubtful = (1 + is_repeated * doubtful) * isinstance(error, Garbled | Missing)
        passing = isinstance(error, Unreachable) and error.passing
        if (
            not (passing or again(error))
            or doubtful >= DOUBTFUL_TRIES
            or time.monotonic() + seconds > end
        ):
            raise error
        say(f"{error}; trying again in {seconds:.0f} s")
        time.sleep(seconds)
        wait = min(2 * wait, LONGEST_WAIT)


@contextlib.contextmanager
def _within(end: float) -> Iterator[None]:
    before = _deadline.set(end)
    try:
        yield
    finally:
        _deadline.reset(before)


def check_time() -> None:
    """Raise if the patience of the call under way is used up."""
    end = _deadline.get()
    if end is not None and time.monotonic() > end:
        raise Unreachable(
            "the Hub is too slow: try again later, or with more patience", passing=False
        )


def _limited(client: Any) -> Any:
    import httpx2

    if client.timeout == httpx2.Timeout(None):
        client.timeout = httpx2.Timeout(READ, connect=CONNECT)
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks.get("request", []), _limit],
        "response": [*hooks.get("response", []), _raise_later],
    }
    return client


def _limit(request: Any) -> None:
    """Set time limits, because several calls of the library set none."""
    end = _deadline.get()
    if end is None:
        return
    check_time()
    if not request.headers.get("authorization", "").isprintable():
        # The transport would refuse it too, with the token in its text and log.
        raise NotAllowed(STRAY)
    remaining = max(end - time.monotonic(), 0.1)
    requested = request.extensions.get("timeout", {})
    limits = {"connect": CONNECT, "read": READ, "write": READ, "pool": READ}
    request.extensions["timeout"] = {
        name: min(requested.get(name) or limit, limit, remaining)
        for name, limit in limits.items()
    }


def _raise_later(response: Any) -> None:
    # Raised, not returned: the library would sleep and repeat the request by itself.
    if _deadline.get() is not None and (error := later(response)) is not None:
        raise error
