"""Runs Flower's SuperLink, of which other machines reach the part for SuperNodes alone.

A SuperLink of Flower 1.42 serves three interfaces at one port. The one for SuperNodes
can ask for keys. At the others, whoever reaches the port may start an app, which runs
on this machine, or take the place of a program that carries messages. So
requests from elsewhere get to `OPEN` and no further.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from comigs_mlx.environment import send_no_telemetry
from comigs_mlx.errors import FederationError

OPEN = "/v1/fleet/"
"""The interface for SuperNodes."""

Scope = Mapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def is_open(scope: Scope) -> bool:
    """Tell whether a request may pass, by where it comes from and what it asks for.

    Args:
        scope: The request, in the form of ASGI.
    """
    if scope["type"] != "http":
        return bool(scope["type"] == "lifespan")
    if str(scope["path"]).startswith(OPEN):
        return True
    client, server = (scope.get(end) or ("",) for end in ("client", "server"))
    try:
        here = ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
    return here or client[0] == server[0]


class Guard:
    """Lets a request pass to the application `app` if it is open."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Serve one request."""
        if is_open(scope):
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": b"not from this machine\n"})


def main() -> None:
    """Run a SuperLink as flower-superlink does, behind a guard."""
    send_no_telemetry()
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink
    from starlette.middleware import Middleware

    if not hasattr(extensions, "get_middleware"):
        raise FederationError(
            "this version of flwr guards its SuperLink in another way than 1.42: "
            "install 'comigs-mlx[flower]'"
        )
    guarding: Any = extensions
    guarding.get_middleware = lambda: (Middleware(Guard),)
    flower_superlink()


if __name__ == "__main__":
    main()
