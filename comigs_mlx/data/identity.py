"""Which text and which tokenizer: exact digests; equal ones mean equal tokens."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from typing import Any

from comigs_mlx.data.conversation import Tokenizer, inner_tokenizer
from comigs_mlx.data.splits import Sample

PACKAGES = ("tokenizers", "transformers", "mlx-lm", "jinja2")
"""Whose code turns text into tokens: another version counts as another tokenizer."""

CLOCK = "strftime_now"
"""What a chat template calls to write the date, as Llama 3's do."""


def content_digest(samples: Iterable[Sample]) -> str:
    """SHA-256 of all samples in their order, 64 hexadecimal digits.

    Also the order of a sample's keys counts, because chat templates print tools as
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


def tokenizer_digest(tokenizer: Tokenizer, chat: bool) -> str | None:
    """SHA-256 of all that decides a tokenizer's output.

    Args:
        tokenizer: mlx-lm's `TokenizerWrapper`, or a transformers tokenizer.
        chat: Whether conversations are rendered, so that the chat template counts.

    Returns:
        64 hexadecimal digits; None where the output depends on more than can be read:
        a tokenizer or template that is Python code, a random one, the date.
    """
    inner = inner_tokenizer(tokenizer)
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is None or getattr(backend.model, "dropout", None):
        return None
    facts = {
        "class": f"{type(inner).__module__}.{type(inner).__qualname__}",
        "state": backend.to_str(),
        "eos": tokenizer.eos_token_id,
        "split_special_tokens": getattr(inner, "split_special_tokens", None),
        "versions": [_version(name) for name in PACKAGES],
    }
    if chat:
        if (template := _template(tokenizer, inner)) is None:
            return None
        facts["template"] = template
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def depends_on_date(tokenizer: Tokenizer) -> bool:
    """Whether the chat template writes the date: its tokens change from day to day."""
    template = getattr(inner_tokenizer(tokenizer), "chat_template", None)
    return CLOCK in json.dumps(template, default=str)


def _template(tokenizer: Tokenizer, inner: Any) -> str | None:
    """The chat template with what is filled in; None where that says too little."""
    if inner is not tokenizer and getattr(tokenizer, "_chat_template", None):
        return None  # a Python function that mlx-lm brings for some families
    content = [getattr(inner, "chat_template", None), inner.special_tokens_map]
    text = json.dumps(content, default=str, sort_keys=True)
    return None if CLOCK in text else text


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
