"""An error as OpenAI's clients expect it: a status, and a JSON object that says why."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "server_error",
    503: "server_error",
}
"""Status -> OpenAI's type of error; any other status is an invalid request."""


class Refusal(Exception):
    """A request that is not answered, and why.

    Attributes:
        status: The HTTP status.
        message: A sentence that says what to do.
        param: The field of the request that is wrong, where it is one.
        code: A word for programs, such as "model_not_found".
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str = ""
    ):
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code = param, code

    def to_json(self) -> dict[str, Any]:
        """The body of the response."""
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code or None,
            }
        }


def where(error: BaseException) -> str:
    """An error of this program as its kind and its place.

    What it says is left out: that may hold a part of somebody's text.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = (
        f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    )
    return f"error: {type(error).__name__}{place} (please report it)"


def stopping() -> Refusal:
    """The refusal of a server that is being ended."""
    return Refusal(503, "the server is being stopped: ask again later", code="stopping")
