from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from comigs_mlx.data.encoding import CHUNK
from comigs_mlx.data.tokens import cut, labelled_samples, token_stream
from comigs_mlx.errors import DataError

Make = Callable[[str], Any]

TURNS = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Me."},
    {"role": "user", "content": "Où?"},
    {"role": "assistant", "content": "Here."},
]
PAIR = {"prompt": "Who?", "completion": "Me."}


def cut_samples(samples: Any, tokenizer: Any, mask_prompt: bool, seq_len: int) -> Any:
    return cut(labelled_samples(samples, tokenizer, mask_prompt), seq_len)


def targets(sample: dict[str, Any], tokenizer: Any, seq_len: int = 1000) -> list[str]:
    """The runs of labelled tokens, as text."""
    ((one,), _) = cut_samples([sample], tokenizer, True, seq_len)
    edges = np.flatnonzero(np.diff(one.labelled.astype(int), prepend=0, append=0))
    return [
        tokenizer.decode(one.tokens[a:b].tolist(), skip_special_tokens=False)
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def test_stream_ends_documents_and_remembers_them(bytes_tokenizer: Any) -> None:
    stream = token_stream(
        [{"text": "ab"}, {"text": ""}, {"text": "é"}], bytes_tokenizer
    )
    assert stream.tokens.tolist() == [97, 98, 256, 256, 0xC3, 0xA9, 256]
    assert stream.documents.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert stream.tokens.dtype == stream.documents.dtype == np.int32


def test_stream_of_a_real_tokenizer_decodes_to_the_text(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    stream = token_stream([{"text": "Où?\n  x"}, {"text": "b"}], tokenizer)
    text = tokenizer.decode(stream.tokens.tolist(), skip_special_tokens=False)
    assert text == "Où?\n  x<|endoftext|>b<|endoftext|>"


def test_stream_of_nothing_is_empty(bytes_tokenizer: Any) -> None:
    assert token_stream([], bytes_tokenizer).tokens.shape == (0,)


def test_stream_needs_an_end_token(bytes_tokenizer: Any) -> None:
    bytes_tokenizer.eos_token_id = None
    with pytest.raises(DataError, match="no EOS token: choose another model"):
        token_stream([{"text": "a"}], bytes_tokenizer)


@pytest.mark.parametrize("template", ["chatml", "default_system"])
def test_mask_holds_what_the_assistant_says(
    template: str, chat_tokenizer: Make
) -> None:
    tokenizer = chat_tokenizer(template)
    expected = ["Me.<|im_end|>\n", "Here.<|im_end|>\n"]
    assert targets({"messages": TURNS}, tokenizer) == expected
    assert targets(PAIR, tokenizer) == expected[:1]


def test_turns_that_the_template_rewrites_are_not_labelled(
    chat_tokenizer: Make,
) -> None:
    tokenizer = chat_tokenizer("rewriting")
    expected = ["<think>\n\n</think>\n\nHere.<|im_end|>\n"]
    assert targets({"messages": TURNS}, tokenizer) == expected
    _, notes = cut_samples([{"messages": TURNS}], tokenizer, True, 1000)
    assert notes == [
        "not trained on 1 assistant turns that the chat template rewrites later in the "
        "conversation"
    ]


def test_marks_of_the_template_win_over_counting(chat_tokenizer: Make) -> None:
    # The line end after <|im_end|> is outside the template's marks.
    expected = ["Me.<|im_end|>", "Here.<|im_end|>"]
    assert targets({"messages": TURNS}, chat_tokenizer("marking")) == expected


def test_unusable_marks_fall_back_to_the_proof(
    chat_tokenizer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = chat_tokenizer("marking")
    stock = type(tokenizer._tokenizer).apply_chat_template

    def other_tokens(self: Any, *args: Any, **options: Any) -> Any:
        found = stock(self, *args, **options)
        if options.get("return_dict"):
            found["input_ids"] = found["input_ids"][1:]
        return found

    monkeypatch.setattr(type(tokenizer._tokenizer), "apply_chat_template", other_tokens)
    expected = ["Me.<|im_end|>\n", "Here.<|im_end|>\n"]
    assert targets({"messages": TURNS}, tokenizer) == expected


def test_an_assistant_who_speaks_first_is_not_labelled(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    assert targets({"messages": TURNS[1:]}, tokenizer) == ["Here.<|im_end|>\n"]


def test_without_mask_all_but_the_first_token_is_a_target(
    chat_tokenizer: Make, bytes_tokenizer: Any
) -> None:
    (one, two), notes = cut_samples(
        [PAIR, {"messages": TURNS[:2]}], chat_tokenizer("chatml"), False, 1000
    )
    assert one.tokens.tolist() == two.tokens.tolist()
    assert one.labelled.tolist() == [False] + [True] * (len(one.tokens) - 1)
    assert notes == []
    ((text,), _) = cut_samples([{"text": "ab"}], bytes_tokenizer, False, 9)
    assert text.tokens.tolist() == [97, 98, 256]
    assert text.labelled.tolist() == [False, True, True]


def test_tools_reach_the_template(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = "{{ tools[0].function.name }}" + tokenizer.chat_template
    tools = [{"type": "function", "function": {"name": "search"}}]
    sample = {"messages": TURNS[:2], "tools": tools}
    ((one,), _) = cut_samples([sample], tokenizer, True, 1000)
    assert tokenizer.decode(one.tokens.tolist()).startswith("search")


def test_cut_and_dropped_samples_are_counted(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    long = {"prompt": "x" * 100, "completion": "y"}
    kept, notes = cut_samples([PAIR, long], tokenizer, True, 30)
    assert len(kept) == 1
    assert len(kept[0].tokens) <= 31
    assert notes == [
        "cut 1 of 2 samples to 31 tokens (--seq-len)",
        "dropped 1 of 2 samples without a target",
    ]
    with pytest.raises(DataError, match="none of 1 samples has a target in its first "):
        cut_samples([long], tokenizer, True, 30)


def test_impossible_labels_are_refused(
    chat_tokenizer: Make, bytes_tokenizer: Any
) -> None:
    with pytest.raises(DataError, match="1 samples of plain text.*leave out --mask-pr"):
        labelled_samples([{"text": "a"}], chat_tokenizer("chatml"), True)
    with pytest.raises(DataError, match="no chat template.*choose an instruct model"):
        labelled_samples([PAIR], bytes_tokenizer, False)
    with pytest.raises(DataError) as error:
        labelled_samples([PAIR, PAIR], chat_tokenizer("strict"), False)
    assert str(error.value).splitlines() == [
        f"sample {i}: the chat template refuses it: TemplateError: roles must alternate"
        for i in (1, 2)
    ]


TEXTS = ["Où?\n  x", "", "<|im_start|> é\u0301 \U0001f600", "a" * 3000, " "]


def test_many_texts_at_once_give_the_tokens_of_each_alone(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    stream = token_stream([{"text": text} for text in TEXTS], tokenizer)
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    expected = [t for tokens in alone for t in [*tokens, tokenizer.eos_token_id]]
    assert stream.tokens.tolist() == expected


def test_a_class_that_changes_encode_is_asked_for_each_text() -> None:
    """Such as mlx-lm's `NewlineTokenizer`, whose lists of texts go another way."""
    from mlx_lm.tokenizer_utils import NewlineTokenizer, TokenizerWrapper
    from tokenizers import Tokenizer, models

    vocabulary = {"a": 0, "<n>": 1, "<|endoftext|>": 2}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.add_tokens(["<n>"])
    fast = NewlineTokenizer(tokenizer_object=inner, eos_token="<|endoftext|>")
    tokenizer = TokenizerWrapper(fast)
    assert token_stream([{"text": "a\na"}], tokenizer).tokens.tolist() == [0, 1, 0, 2]


def test_progress_is_told_only_where_it_takes_long(
    bytes_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    samples = [{"text": "a" * (CHUNK // 2)}] * 5
    token_stream(samples, bytes_tokenizer, said.append)
    assert said == []
    monkeypatch.setattr("comigs_mlx.data.encoding.QUIET_SECONDS", -1.0)
    token_stream(samples, bytes_tokenizer, said.append)
    assert said == [f"tokenised {done} of 5 documents" for done in (2, 4)]
