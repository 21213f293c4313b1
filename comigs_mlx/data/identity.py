"""Exact digests of a text and of a tokenizer; equal ones mean equal tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from comigs_mlx.data.conversation import Tokenizer, inner_tokenizer
from comigs_mlx.data.splits import Sample
from comigs_mlx.environment import version

PACKAGES = ("tokenizers", "transformers", "mlx-lm", "jinja2")
"""The packages that turn text into tokens: another version counts as another tokenizer.
"""

CLOCK = "strftime_now"
"""The function that a chat template calls to write the date, as Llama 3's do."""


def content_digest(samples: Iterable[Sample]) -> str:
    """Return the SHA-256 of all samples in their order, 64 hexadecimal digits.

    The order of a sample's keys counts too, because chat templates print tools as
    they stand.
    """
    digest = hashlib.sha256()
    for sample in samples:
        plain = sample.keys() == {"text"}
        content = sample["text"] if plain else json.dumps(sample)
        raw = content.encode("utf-8", "surrogatepass")
        digest.update(b"%s %d\n" % (b"text" if plain else b"json", len(raw)))
        digest.update(raw)
    return digest.hexdigest()


def depends_on_date(tokenizer: Tokenizer) -> bool:
    """Tell whether the chat template writes today's date, so other tokens every day."""
    template = getattr(inner_tokenizer(tokenizer), "chat_template", None)
    return CLOCK in json.dumps(template, default=str)


def tokenizer_digest(tokenizer: Tokenizer, chat: bool) -> str | None:
    """Return the SHA-256 of all that decides a tokenizer's output.

    Args:
        tokenizer: mlx-lm's `TokenizerWrapper`, or a transformers tokenizer.
        chat: Whether conversations are rendered, so that the chat template counts.

    Returns:
        64 hexadecimal digits; None where the output depends on more than can be read: a
        tokenizer or template that is Python code, a random one, or the date.
    """
    inner = inner_tokenizer(tokenizer)
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is None or getattr(backend.model, "dropout", None):
        return None
    if chat and (_is_code(tokenizer, inner) or depends_on_date(tokenizer)):
        return None
    facts = {
        **_facts(tokenizer, inner, chat),
        "class": f"{type(inner).__module__}.{type(inner).__qualname__}",
        "versions": [version(name) for name in PACKAGES],
    }
    return _sha256(facts)


def tokenizer_identity(tokenizer: Tokenizer, chat: bool) -> str:
    """Return the SHA-256 of what a base's folder says of its tokenizer, for a run's
    state.

    Unlike `tokenizer_digest` it always exists, and it leaves out the date and the
    versions of packages: a difference means a change in the base's folder.

    Args:
        tokenizer: mlx-lm's `TokenizerWrapper`, or a transformers tokenizer.
        chat: Whether conversations are rendered, so that the chat template counts.

    Returns:
        The digest, 64 hexadecimal digits.
    """
    return _sha256(_facts(tokenizer, inner_tokenizer(tokenizer), chat))


def _facts(tokenizer: Tokenizer, inner: Any, chat: bool) -> dict[str, Any]:
    facts = {
        "state": _state(inner),
        "eos": tokenizer.eos_token_id,
        "split_special_tokens": getattr(inner, "split_special_tokens", None),
    }
    if chat:
        facts["template"] = getattr(inner, "chat_template", None)
        facts["special"] = getattr(inner, "special_tokens_map", None)
        facts["code"] = _is_code(tokenizer, inner)
    return facts


def _state(inner: Any) -> Any:
    """Return what turns text into tokens, without what a call may leave behind in
    it.
    """
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # Every call sets these two anew; nothing here asks for either.
        return {**state, "truncation": None, "padding": None}
    get_vocab = getattr(inner, "get_vocab", None)
    return sorted(get_vocab().items()) if get_vocab else None


def _is_code(tokenizer: Tokenizer, inner: Any) -> bool:
    """Tell whether mlx-lm renders with a Python function, as for some families."""
    return inner is not tokenizer and bool(getattr(tokenizer, "_chat_template", None))


def _sha256(facts: dict[str, Any]) -> str:
    content = json.dumps(facts, default=str, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
