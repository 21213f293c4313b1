"""What comes from the cache is what the tokenizer would say, without asking it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comigs_mlx.data.cache import TokenCache
from comigs_mlx.data.content import cache_key, tokenised
from comigs_mlx.data.tokens import TokenStream

TURNS = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Me."},
    {"role": "user", "content": "Où?"},
    {"role": "assistant", "content": "Here, " + "there, " * 20},
]
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": "Où?\n  x"}, {"text": ""}, {"text": "b" * 90}],
    "chat": [
        {"messages": TURNS},
        {"prompt": "a", "completion": "b"},
        {"messages": TURNS[:2]},
    ],
}
KINDS = [
    ("text", False, "chatml"),
    ("chat", False, "chatml"),
    ("chat", True, "chatml"),
    ("chat", True, "rewriting"),
    ("chat", True, "marking"),
]


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    return TokenCache(tmp_path / "tokens", pytest.fail)


def arrays(content: Any) -> list[Any]:
    if isinstance(content, TokenStream):
        return [content.tokens, content.documents]
    return [a for sample in content for a in (sample.tokens, sample.labelled)]


def refuse(*args: Any, **options: Any) -> None:
    raise AssertionError("the tokenizer was asked")


@pytest.mark.parametrize(("kind", "masked", "template"), KINDS)
def test_the_second_time_is_the_first_without_the_tokenizer(
    kind: str,
    masked: bool,
    template: str,
    cache: TokenCache,
    chat_tokenizer: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizers = [chat_tokenizer(template) for _ in range(3)]

    def content(**options: Any) -> Any:
        return tokenised(
            SAMPLES[kind],
            kind,
            tokenizers.pop(),
            seq_len=40,
            mask_prompt=masked,
            **options,
        )

    fresh, notes = content()
    assert not cache.folder.exists()
    first, first_notes = content(cache=cache)
    inner = type(tokenizers[0]._tokenizer)
    for name in ("encode", "__call__", "_encode_plus", "apply_chat_template"):
        monkeypatch.setattr(inner, name, refuse)
    second, second_notes = content(cache=cache)
    assert notes == first_notes == second_notes
    assert type(fresh) is type(first) is type(second)
    for one, two, three in zip(*map(arrays, (fresh, first, second)), strict=True):
        assert one.dtype == two.dtype == three.dtype
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)
        assert not two.flags.writeable
        assert not three.flags.writeable
    if kind == "text":
        assert isinstance(second.tokens, np.memmap)


def test_conversations_of_one_entry_can_be_cut_to_any_length(
    cache: TokenCache, chat_tokenizer: Callable[[str], Any]
) -> None:
    for seq_len in (40, 100):
        cut, _ = tokenised(
            SAMPLES["chat"],
            "chat",
            chat_tokenizer("chatml"),
            seq_len=seq_len,
            mask_prompt=False,
            cache=cache,
        )
        assert max(len(sample.tokens) for sample in cut) == seq_len + 1
    assert len(list(cache.folder.iterdir())) == 1


def test_text_tokenizer_options_and_format_make_the_key(
    chat_tokenizer: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, samples = chat_tokenizer("chatml"), SAMPLES["chat"]
    bigger = chat_tokenizer("chatml")
    bigger._tokenizer.add_tokens(["zz"])
    keys = [
        cache_key(samples, tokenizer, True),
        cache_key(samples, tokenizer, False),
        cache_key(samples, tokenizer, None),
        cache_key(samples[:1], tokenizer, True),
        cache_key(samples, bigger, True),
        cache_key(samples, chat_tokenizer("strict"), True),
    ]
    monkeypatch.setattr("comigs_mlx.data.content.FORMAT", 0)
    keys.append(cache_key(samples, tokenizer, True))
    assert len(set(keys)) == len(keys)
    assert cache_key(samples, chat_tokenizer("chatml"), True) == keys[-1]


def test_a_tokenizer_that_cannot_be_identified_is_not_cached(
    cache: TokenCache, bytes_tokenizer: Any
) -> None:
    content, _ = tokenised(
        SAMPLES["text"],
        "text",
        bytes_tokenizer,
        seq_len=8,
        mask_prompt=False,
        cache=cache,
    )
    assert isinstance(content, TokenStream)
    assert not cache.folder.exists()


def test_a_damaged_entry_is_made_anew(
    cache: TokenCache, chat_tokenizer: Callable[[str], Any]
) -> None:
    def content() -> Any:
        return tokenised(
            SAMPLES["text"],
            "text",
            chat_tokenizer("chatml"),
            seq_len=8,
            mask_prompt=False,
            cache=cache,
        )[0]

    before = content().tokens.tolist()
    (entry,) = cache.folder.iterdir()
    (entry / "tokens.npy").write_bytes(b"garbage")
    assert content().tokens.tolist() == before
    assert (entry / "tokens.npy").read_bytes() != b"garbage"


def test_no_text_at_all_is_not_kept(
    cache: TokenCache, chat_tokenizer: Callable[[str], Any]
) -> None:
    content, _ = tokenised(
        [], "text", chat_tokenizer("chatml"), seq_len=8, mask_prompt=False, cache=cache
    )
    assert len(arrays(content)[0]) == 0
    assert not cache.folder.exists()
