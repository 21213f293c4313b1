"""Turns every way in which huggingface_hub fails into one sentence of ours.

Texts of the library and the server are not passed on, as they can quote a header with
the token; two exceptions are named below, cleaned.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import (
    Moved,
    NotAllowed,
    NotThere,
    Unreachable,
)
from comigs_mlx.federation.exchanges.hub.retry_after import later
from comigs_mlx.federation.formats.redaction import clean


class Missing(NotThere):
    """The Hub answered 404: the object is gone, or an answer lags behind."""


class NoRevision(Missing):
    """The error for a branch or commit that the history does not have (any more)."""


class NoFile(Missing):
    """The error for a commit without this file, or a copy of it that lags behind."""


class Garbled(Unreachable):
    """The error for an answer that was cut, or that is none of the Hub's."""


STRAY = "the token has stray characters: check HF_TOKEN, or log in"
LOGIN = "hf auth login (or set HF_TOKEN)"


def translated(error: Exception, where: str) -> FederationError:
    """Translate `error`, raised by a call of the library, into one of ours.

    Args:
        error: The error of the library, its transport or the system, or one of ours
            already.
        where: The name of the repository, `owner/name`.
    """
    causes = list(_causes(error))
    ours = next((e for e in causes if isinstance(e, FederationError)), None)
    if ours is not None:
        return ours
    for translate in (_by_card, _by_type, _by_status, _by_transport, _by_system):
        for cause in causes:
            translation = translate(cause, where)
            if translation is not None:
                return translation
    # Mostly the library fails like that on an answer that was cut to shorter JSON.
    return Garbled(
        f"the Hub library failed on {where} with {type(error).__name__}: check that "
        "huggingface_hub is up to date and try again"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes: the library wraps what its upload threads
    raise.
    """
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _by_card(error: BaseException, where: str) -> FederationError | None:
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return FederationError(
            f"the Hub refuses the metadata of README.md for {where}: mend the lines "
            "between its --- marks"
        )
    return None


def _by_type(error: BaseException, where: str) -> FederationError | None:
    from huggingface_hub import errors

    for kind, make in (
        (errors.OfflineModeIsEnabled, _offline),
        (errors.LocalTokenNotFoundError, _no_login),
        (errors.GatedRepoError, _gated),
        (errors.DisabledRepoError, _disabled),
        (errors.RepositoryNotFoundError, _no_repository),
        (errors.RevisionNotFoundError, _no_revision),
        (errors.LocalEntryNotFoundError, _no_answer),
        (errors.EntryNotFoundError, _no_file),
        (errors.HFValidationError, _bad_name),
    ):
        if isinstance(error, kind):
            return make(where)
    return None


def _offline(where: str) -> FederationError:
    return Unreachable(
        f"{where} cannot be reached because HF_HUB_OFFLINE is set: unset it",
        passing=False,
        maybe_done=False,
    )


def _no_login(where: str) -> FederationError:
    return NotAllowed(f"nobody is logged in to the Hub for {where}: run {LOGIN}")


def _gated(where: str) -> FederationError:
    return NotAllowed(
        f"{where} is gated: open its page on the Hub, ask for access, and wait until "
        "its owner grants it to the account you are logged in with"
    )


def _disabled(where: str) -> FederationError:
    return NotAllowed(f"the Hub has disabled {where}: ask its owner")


def _no_repository(where: str) -> FederationError:
    return Missing(
        f"this account sees no model repository {where} on the Hub: check the name; "
        f"if it is private, run {LOGIN}; if it is new, make it with "
        "python -m comigs_mlx.sync init"
    )


def _no_revision(where: str) -> FederationError:
    return NoRevision(
        f"{where} has no such branch or revision: check what follows @ in --federation"
    )


def _no_file(where: str) -> FederationError:
    return NoFile(f"a file of {where} is not there any more: look again")


def _no_answer(where: str) -> FederationError:
    return Unreachable(f"no answer about {where}: check the connection")


def _bad_name(where: str) -> FederationError:
    return FederationError(
        f"{where} is not a name on the Hub: write hf://owner/repo with letters, "
        "digits, - _ ."
    )


def _by_status(error: BaseException, where: str) -> FederationError | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int) or status < 400:
        return None
    if (passing := later(response)) is not None:
        return passing
    if status in STATUS:
        return STATUS[status](where)
    return FederationError(
        f"the Hub refused a request on {where} (status {status}{_reason(error)}): "
        "check the repository's page and try again"
    )


STATUS: dict[int, Callable[[str], FederationError]] = {
    401: lambda where: NotAllowed(
        f"the Hub does not accept the token used for {where}: run {LOGIN} again"
    ),
    402: lambda where: NotAllowed(
        f"the account of {where} has no storage left: ask its owner to free some"
    ),
    403: lambda where: NotAllowed(
        f"this account or token may not write to {where}: ask its owner for the right, "
        "use a token with write access, or open a pull request with --create-pr"
    ),
    404: _no_file,
    412: lambda where: Moved(f"somebody committed to {where} first: read it again"),
    413: lambda where: FederationError(
        f"the commit is too large for {where}: split it"
    ),
}


def _reason(error: BaseException) -> str:
    """Return the server's own reason, without anything like a token."""
    text = (getattr(error, "server_message", None) or "").strip().splitlines()
    shown = "".join(c for c in text[0] if c.isprintable())[:200] if text else ""
    return f", {clean(shown)!r}" if shown else ""


def _by_transport(error: BaseException, where: str) -> FederationError | None:
    import ssl

    import httpx2

    if isinstance(error, ssl.SSLError) or "CERTIFICATE_VERIFY" in str(error)[:500]:
        return Unreachable(
            f"the certificate of the Hub is not trusted (for {where}): check the clock "
            "and the proxy, or point SSL_CERT_FILE to your company's certificates",
            passing=False,
            maybe_done=False,
        )
    if isinstance(error, httpx2.ProxyError):
        return Unreachable(
            f"the proxy does not let {where} through: check HTTPS_PROXY and NO_PROXY",
            maybe_done=False,
        )
    if isinstance(error, httpx2.LocalProtocolError | httpx2.InvalidURL):
        return FederationError(
            f"a request on {where} cannot be sent: check HF_TOKEN and HF_ENDPOINT for "
            "stray characters"
        )
    if isinstance(error, httpx2.TimeoutException):
        return Unreachable(f"no answer from the Hub about {where} in time: try later")
    if isinstance(error, httpx2.TransportError | httpx2.StreamError):
        name = type(error).__name__
        return Unreachable(
            f"the connection to the Hub failed on {where} ({name}): check the network"
        )
    return None


def _by_system(error: BaseException, where: str) -> FederationError | None:
    if isinstance(error, UnicodeEncodeError):  # a header takes ASCII only
        return NotAllowed(STRAY)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        page = isinstance(error, json.JSONDecodeError) and "<" in error.doc.lstrip()[:1]
        return Garbled(
            f"the answer about {where} is not the Hub's: check HF_ENDPOINT, and "
            "whether this network wants a login in the browser first",
            passing=not page,  # cut JSON is asked for again; a login page stays one
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FederationError(f"the disk is full (for {where}): free some space")
    return FederationError(
        f"the system failed on {where} ({error.strerror}): mend it and try again"
    )
