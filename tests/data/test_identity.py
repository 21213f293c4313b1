"""Equal digests mean equal tokens; any difference that can matter changes them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from comigs_mlx.data.identity import (
    content_digest,
    depends_on_date,
    tokenizer_digest,
    tokenizer_identity,
)

TEXTS = [{"text": "ab"}, {"text": "c"}]
CHAT = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"a": 1, "b": 2}]}


@pytest.mark.parametrize(
    "other",
    [
        [{"text": "ab"}],
        [{"text": "c"}, {"text": "ab"}],
        [{"text": "a"}, {"text": "bc"}],
        [{"text": "ab"}, {"text": "C"}],
        [{"text": "ab"}, {"text": "c"}, {"text": ""}],
        [{"text": "abc"}],
        [{"prompt": "ab", "completion": "c"}],
        [],
    ],
)
def test_every_byte_and_border_of_the_text_counts(other: list[dict[str, Any]]) -> None:
    assert content_digest(other) != content_digest(TEXTS)
    assert content_digest(copy.deepcopy(TEXTS)) == content_digest(TEXTS)


def test_a_border_cannot_be_written_into_a_text() -> None:
    joined = "ab" + "text 1\n" + "c"
    assert content_digest([{"text": joined}]) != content_digest(TEXTS)


def test_a_text_that_spells_a_conversation_is_another() -> None:
    assert content_digest([{"text": json.dumps(CHAT)}]) != content_digest([CHAT])


def test_conversations_count_with_the_order_of_their_tools() -> None:
    turned = {**CHAT, "tools": [{"b": 2, "a": 1}]}
    changed = {**CHAT, "messages": [{"role": "user", "content": "ho"}]}
    digests = {content_digest([sample]) for sample in (CHAT, turned, changed)}
    assert len(digests) == 3


def test_half_a_character_can_be_digested() -> None:
    assert content_digest([{"text": "\ud800"}]) != content_digest([{"text": "\ud801"}])


def test_a_tokenizer_is_its_vocabulary_and_template(
    chat_tokenizer: Callable[[str], Any],
) -> None:
    one, same = chat_tokenizer("chatml"), chat_tokenizer("chatml")
    other = chat_tokenizer("default_system")
    for chat in (False, True):
        assert tokenizer_digest(one, chat) == tokenizer_digest(same, chat) is not None
    assert tokenizer_digest(one, False) == tokenizer_digest(other, False)
    assert tokenizer_digest(one, True) != tokenizer_digest(other, True)
    same.encode("used", add_special_tokens=False)
    assert tokenizer_digest(same, True) == tokenizer_digest(one, True)


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t.add_tokens(["zz"]),
        lambda t: setattr(t, "eos_token", "<|im_end|>"),
        lambda t: setattr(t, "split_special_tokens", True),
        lambda t: setattr(t.backend_tokenizer, "normalizer", lowercase()),
    ],
)
def test_what_changes_tokens_changes_the_digest(
    edit: Callable[[Any], None], chat_tokenizer: Callable[[str], Any]
) -> None:
    tokenizer = chat_tokenizer("chatml")
    before = tokenizer_digest(tokenizer, False)
    identity = tokenizer_identity(tokenizer, False)
    edit(tokenizer._tokenizer)
    assert tokenizer_digest(tokenizer, False) not in (before, None)
    assert tokenizer_identity(tokenizer, False) != identity


def test_what_a_call_leaves_behind_in_a_tokenizer_does_not_count(
    chat_tokenizer: Callable[[str], Any],
) -> None:
    tokenizer = chat_tokenizer("chatml")
    digests = tokenizer_digest(tokenizer, True), tokenizer_identity(tokenizer, True)
    tokenizer._tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    tokenizer._tokenizer.backend_tokenizer.enable_padding(length=9)
    assert tokenizer_digest(tokenizer, True) == digests[0]
    assert tokenizer_identity(tokenizer, True) == digests[1]


def test_a_run_knows_its_tokenizer_whatever_it_is(
    chat_tokenizer: Callable[[str], Any],
    bytes_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, same = chat_tokenizer("chatml"), chat_tokenizer("chatml")
    identity = tokenizer_identity(one, True)
    assert identity == tokenizer_identity(same, True) != tokenizer_identity(one, False)
    same.chat_template = same.chat_template.replace("im_start", "im_begin")
    assert tokenizer_identity(same, True) != identity
    assert tokenizer_identity(same, False) == tokenizer_identity(one, False)
    special = chat_tokenizer("chatml")
    special._tokenizer.bos_token = "<|im_start|>"
    assert tokenizer_identity(special, True) != identity
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    assert tokenizer_identity(one, True) == identity
    assert len(tokenizer_identity(bytes_tokenizer, False)) == 64


def test_a_template_that_writes_the_date_is_told(
    chat_tokenizer: Callable[[str], Any], bytes_tokenizer: Any
) -> None:
    plain, dated = chat_tokenizer("chatml"), chat_tokenizer("chatml")
    dated.chat_template = "{{ strftime_now('%d') }}" + dated.chat_template
    named = chat_tokenizer("chatml")
    named.chat_template = {"default": "x", "tool_use": dated.chat_template}
    found = [depends_on_date(t) for t in (dated, named, plain, bytes_tokenizer)]
    assert found == [True, True, False, False]
    assert tokenizer_identity(dated, True) == tokenizer_identity(dated, True)


def lowercase() -> Any:
    from tokenizers import normalizers

    return normalizers.Lowercase()


def test_another_version_of_the_tokenizers_code_counts(
    chat_tokenizer: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = chat_tokenizer("chatml")
    before = tokenizer_digest(tokenizer, False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    assert tokenizer_digest(tokenizer, False) != before


def test_what_cannot_be_identified_is_not(
    chat_tokenizer: Callable[[str], Any], bytes_tokenizer: Any
) -> None:
    assert tokenizer_digest(bytes_tokenizer, False) is None
    dated = chat_tokenizer("chatml")
    dated.chat_template = "{{ strftime_now('%d') }}" + dated.chat_template
    assert tokenizer_digest(dated, True) is None
    assert tokenizer_digest(dated, False) is not None
    coded = chat_tokenizer("chatml")
    coded._chat_template = lambda *args, **options: ""
    assert tokenizer_digest(coded, True) is None
    random = chat_tokenizer("chatml")
    random._tokenizer.backend_tokenizer.model.dropout = 0.1
    assert tokenizer_digest(random, False) is None
