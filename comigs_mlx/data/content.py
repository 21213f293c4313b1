"""Samples as tokens ready for batches, tokenised once and then read from the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from comigs_mlx.data.cache import NamedArrays, TokenCache
from comigs_mlx.data.conversation import Tokenizer
from comigs_mlx.data.identity import (
    content_digest,
    depends_on_date,
    tokenizer_digest,
)
from comigs_mlx.data.reading_progress import Advance, ignore
from comigs_mlx.data.splits import Sample
from comigs_mlx.data.tokens import (
    Labelled,
    LabelledSample,
    TokenStream,
    cut,
    labelled_samples,
    token_stream,
)
from comigs_mlx.errors import DataError
from comigs_mlx.messages import Say, quiet

Content = TokenStream | list[LabelledSample]
"""The tokens of one split: a stream of plain text, or conversations, maybe with texts.
"""

FORMAT = 2
"""The number that goes up when equal samples become other tokens or are stored
otherwise.
"""

STREAM = ("tokens", "documents")
LABELLED = ("tokens", "labelled", "ends", "turns")


def tokenised(
    samples: Sequence[Sample],
    kind: str,
    tokenizer: Tokenizer,
    *,
    seq_len: int | None,
    mask_prompt: bool,
    cache: TokenCache | None = None,
    say: Say = quiet,
    advance: Advance = ignore,
    split: str = "",
) -> tuple[Content, list[str]]:
    """Tokenise one split, or read from the cache what was tokenised before.

    Args:
        samples: The samples of one split, from `load_splits`.
        kind: The kind of the samples, "text", "chat" or "mixed".
        tokenizer: The tokenizer of the base model.
        seq_len: The inputs per sequence, in tokens, to which conversations are cut,
            and into which people's own chats, and texts beside them, are. None leaves
            them whole.
        mask_prompt: Whether only the assistant's tokens are targets (chat).
        cache: The cache that keeps tokens between runs; None keeps them in memory only.
        say: Receives a sentence on how far the work is, where it takes long.
        advance: Is called at each step of the work, which it ends by raising.
        split: The name that errors give to these samples, such as "valid".

    Returns:
        The content, and counted notes for the user.

    Raises:
        DataError: If the samples cannot be tokenised or labelled.
    """
    plain = kind == "text" and not mask_prompt
    mixed = kind == "mixed"

    def fresh() -> NamedArrays:
        if plain:
            return _stream_arrays(token_stream(samples, tokenizer, say, advance))
        return _labelled_arrays(
            labelled_samples(samples, tokenizer, mask_prompt, say, advance, mixed)
        )

    key = None
    if cache is not None:
        key = cache_key(samples, tokenizer, None if plain else mask_prompt)
    names = STREAM if plain else LABELLED
    with naming_split(split):
        arrays = _once(cache, key, names, fresh)
        if plain:
            return TokenStream(arrays["tokens"], arrays["documents"]), []
        windowed = [is_windowed(sample, kind) for sample in samples]
        content, notes = cut(_labelled(arrays), seq_len, windowed)
    return content, [*notes, *_date_note(tokenizer)]


def is_windowed(sample: Sample, kind: str) -> bool:
    """Tell whether a sample is cut into windows, so that nothing of it is lost.

    A row of JSONL is truncated, as in mlx-lm; what people wrote is not.

    Args:
        sample: The sample to be tokenised.
        kind: The kind of all samples of its source, "text", "chat" or "mixed".
    """
    return "mask" in sample or (kind == "mixed" and "text" in sample)


@contextlib.contextmanager
def naming_split(split: str) -> Iterator[None]:
    """Let every line of a `DataError` name the split it is about; "" adds nothing."""
    try:
        yield
    except DataError as error:
        if not split:
            raise
        lines = str(error).splitlines()
        raise DataError("\n".join(f"{split}: {line}" for line in lines)) from error


def _date_note(tokenizer: Tokenizer) -> list[str]:
    if not depends_on_date(tokenizer):
        return []
    return ["the chat template writes the date: its tokens change from day to day"]


def tokens_digest(contents: Iterable[Content]) -> str:
    """Return the SHA-256 of all tokens and targets, which a model really learns from.

    Equal text has another digest where tokenizer or chat template have changed.
    """
    digest = hashlib.sha256()
    for content in contents:
        for part in [content] if isinstance(content, TokenStream) else content:
            digest.update(b"%d" % len(part.tokens))
            digest.update(part.tokens.tobytes())
            if isinstance(part, LabelledSample):
                digest.update(part.labelled.tobytes())
    return digest.hexdigest()


def cache_key(
    samples: Sequence[Sample], tokenizer: Tokenizer, mask_prompt: bool | None
) -> str | None:
    """Name a cache entry; return None where the tokenizer cannot be identified.

    Args:
        samples: The samples of one split.
        tokenizer: The tokenizer of the base model.
        mask_prompt: Whether only the assistant's tokens are targets; None for a stream
            of plain text.
    """
    identity = tokenizer_digest(tokenizer, chat=mask_prompt is not None)
    if identity is None:
        return None
    facts = [FORMAT, mask_prompt, identity, content_digest(samples)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _once(
    cache: TokenCache | None,
    key: str | None,
    names: Sequence[str],
    fresh: Callable[[], NamedArrays],
) -> NamedArrays:
    """Load the arrays from the cache, or make them and store them if possible."""
    if cache is None or key is None:
        return fresh()
    if (cached := cache.load(key, names)) is not None:
        return cached
    arrays = fresh()
    if all(array.size for array in arrays.values()):  # an empty file cannot be mapped
        cache.store(key, arrays)
        # Mapped from now on: the memory they were made in is free for the model.
        return cache.load(key, names) or arrays
    return arrays


def _stream_arrays(stream: TokenStream) -> NamedArrays:
    return {"tokens": stream.tokens, "documents": stream.documents}


def _labelled_arrays(labelled: Labelled) -> NamedArrays:
    """Put all samples one after the other.

    `ends` is [S] int64, the end of each; `turns` counts turns as `Labelled` does.
    """
    samples = labelled.samples
    return {
        "tokens": np.concatenate(
            [s.tokens for s in samples] or [np.zeros(0, np.int32)]
        ),
        "labelled": np.concatenate(
            [s.labelled for s in samples] or [np.zeros(0, bool)]
        ),
        "ends": np.cumsum([len(s.tokens) for s in samples], dtype=np.int64),
        "turns": np.array(
            [
                labelled.rewritten,
                labelled.unfound,
                labelled.endless,
                labelled.refused,
            ],
            np.int64,
        ),
    }


def _labelled(arrays: NamedArrays) -> Labelled:
    # Plain views: a slice of a memmap costs ten times one of an array.
    tokens, labelled = np.asarray(arrays["tokens"]), np.asarray(arrays["labelled"])
    ends = arrays["ends"].tolist()
    samples = [
        LabelledSample(tokens[start:end], labelled[start:end])
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return Labelled(samples, *arrays["turns"].tolist())
