"""Checks that tokenised text fits a base model, before it is trained or measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from comigs_mlx.data.content import Content
from comigs_mlx.data.shapes import buckets
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.model.base import Base


def check_texts(base: Base, texts: Mapping[str, Content], seq_len: int) -> list[str]:
    """Compare token ids and lengths with what the base has tables for.

    Args:
        base: The base model that is trained.
        texts: Maps the name of a text, such as `train`, to its tokens.
        seq_len: The value of `--seq-len`, in tokens.

    Returns:
        A note for the user where the base was not trained for such lengths.

    Raises:
        ModelError: If the base does not know a token.
        ConfigError: If the base has no positions for so many tokens at once.
    """
    for name, content in texts.items():
        for tokens in _tokens(content):
            base.check_tokens(tokens, f"the {name} text")
    length = max((longest(text, seq_len) for text in texts.values()), default=0)
    return base.check_length(length, "--seq-len: a window", _fix(base, length))


def longest(content: Content, seq_len: int) -> int:
    """Return the inputs of the longest sequence that batches of this content have,
    padded.
    """
    if isinstance(content, TokenStream):
        return seq_len
    return max(buckets(content, seq_len), default=0)


def _tokens(content: Content) -> Iterator[object]:
    if isinstance(content, TokenStream):
        yield content.tokens
    else:
        yield from (sample.tokens for sample in content)


def _fix(base: Base, length: int) -> str:
    most = base.context
    return f"set --seq-len to at most {length if most is None else most}"
