"""Every span of the mask against a reference that writes the conversation by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.data.conversation import Conversation
from comigs_mlx.data.turns import STAND_IN, Turn, Turns

Message = dict[str, Any]
Pieces = list[tuple[str, str]]
"""Text and what it is: "" the prompt's, "says" the assistant's, "end" what follows."""

SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>"]
SPECIALS += ["<|end|>", "<|eot|>", "<|head|>", "<|/head|>"]


@dataclass
class Family:
    """A chat template, and the same written by hand.

    Attributes:
        template: As a model ships it, in the parts that matter.
        write: Pieces of a conversation.
        swallows: Special tokens that take the spaces after them.
    """

    template: str
    write: Callable[[list[Message]], Pieces]
    swallows: tuple[str, ...] = ()


def chatml(messages: list[Message]) -> Pieces:
    pieces = []
    for m in messages:
        pieces += [(f"<|im_start|>{m['role']}\n", "")]
        says = m["role"] == "assistant"
        pieces += [(m["content"], "says" * says), ("<|im_end|>\n", "end" * says)]
    return pieces


def llama3(messages: list[Message]) -> Pieces:
    pieces = [("<s>", "")]
    for m in messages:
        pieces += [(f"<|head|>{m['role']}<|/head|>\n\n", "")]
        says = m["role"] == "assistant"
        pieces += [(m["content"].strip(), "says" * says), ("<|eot|>", "end" * says)]
    return pieces


def mistral(messages: list[Message]) -> Pieces:
    pieces = [("<s>", "")]
    for number, m in enumerate(messages):
        if m["role"] == "assistant":
            # The prompt ends after [/INST]: the space is the assistant's.
            pieces += [(" ", "says" if number else "")]
            pieces += [(m["content"], "says"), ("</s>", "end")]
        else:
            pieces += [(f"[INST] {m['content']} [/INST]", "")]
    return pieces


def spaced(messages: list[Message]) -> Pieces:
    pieces = []
    for m in messages:
        if m["role"] == "assistant":
            pieces += [("ASSISTANT: ", ""), (m["content"], "says"), ("</s>", "end")]
        else:
            pieces += [(f"USER: {m['content']} ", "")]
    return pieces


def phi3(messages: list[Message]) -> Pieces:
    pieces = []
    for number, m in enumerate(messages, 1):
        says = m["role"] == "assistant"
        pieces += [(f"<|{m['role']}|>\n", ""), (m["content"], "says" * says)]
        pieces += [("<|end|>\n", "end" * says)]
        if number == len(messages):
            pieces += [("</s>", "end" * says)]
    return pieces


def reasoning(messages: list[Message]) -> Pieces:
    """DeepSeek's: the prompt opens a thinking block, which the history lacks."""
    pieces = []
    for m in messages:
        if m["role"] == "assistant":
            pieces += [("<|assistant|>", "")]
            pieces += [(m["content"].split("</think>")[-1], "says"), ("</s>", "end")]
        else:
            pieces += [(f"<|user|>{m['content']}", "")]
    return pieces


def late_end(messages: list[Message]) -> Pieces:
    """The end token is written by the message that follows."""
    pieces = []
    for number, m in enumerate(messages):
        before = messages[number - 1]["role"] == "assistant" if number else False
        pieces += [("</s>", "end" * before)] if number else []
        says = m["role"] == "assistant"
        pieces += [(f"{m['role']}: ", ""), (m["content"], "says" * says)]
    return pieces


def joined(messages: list[Message]) -> Pieces:
    """Nothing ends a turn, and a space begins the next: both may be in one token."""
    pieces = []
    for number, m in enumerate(messages):
        says = m["role"] == "assistant"
        pieces += [(" " * (number > 0), ""), (f"{m['role']}: ", "")]
        pieces += [(m["content"], "says" * says)]
    return pieces


ROLE = "{% for m in messages %}"
ASKED = "{% if add_generation_prompt %}"
FAMILIES = {
    "chatml": Family(
        ROLE + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        f"{ASKED}<|im_start|>assistant\n{{% endif %}}",
        chatml,
    ),
    "llama3": Family(
        "<s>" + ROLE + "<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>"
        f"{{% endfor %}}{ASKED}<|head|>assistant<|/head|>\n\n{{% endif %}}",
        llama3,
    ),
    "mistral": Family(
        "<s>" + ROLE + "{% if m.role == 'assistant' %} {{ m.content }}</s>{% else %}"
        "[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}",
        mistral,
    ),
    "spaced": Family(
        ROLE + "{% if m.role == 'assistant' %}ASSISTANT: {{ m.content }}</s>"
        "{% else %}USER: {{ m.content }} {% endif %}{% endfor %}"
        f"{ASKED}ASSISTANT: {{% endif %}}",
        spaced,
    ),
    "phi3": Family(
        ROLE + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        f"{ASKED}<|assistant|>\n{{% else %}}</s>{{% endif %}}",
        phi3,
        swallows=("<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "reasoning": Family(
        ROLE + "{% if m.role == 'assistant' %}<|assistant|>"
        "{{ m.content.split('</think>')[-1] }}</s>{% else %}<|user|>{{ m.content }}"
        f"{{% endif %}}{{% endfor %}}{ASKED}<|assistant|><think>\n{{% endif %}}",
        reasoning,
    ),
    "late_end": Family(
        ROLE + "{% if not loop.first %}</s>{% endif %}{{ m.role }}: {{ m.content }}"
        f"{{% endfor %}}{ASKED}</s>assistant: {{% endif %}}",
        late_end,
    ),
    "joined": Family(
        ROLE + "{% if not loop.first %} {% endif %}{{ m.role }}: {{ m.content }}"
        f"{{% endfor %}}{ASKED} assistant: {{% endif %}}",
        joined,
    ),
}

MERGES = [
    *["Ċ Ċ", "Ġ Ġ", "Ċ Ġ", ": Ġ", "Ġ h", "Ġh e", "] Ġ", "ĊĊ Ċ", "ĠĠ ĠĠ", "> Ċ"],
    *["e l", "el l", "l o", "< t", "n Ċ", "t Ċ", "a n", ". Ċ", "Ġ <", "Ã ¼", "Ċ Ã"],
]


def tokenizer(family: Family, merges: Iterable[str] = MERGES) -> Any:
    """One that merges whatever it can, also across the borders of turns."""
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate(sorted(alphabet()))}
    pairs = []
    for left, right in (merge.split() for merge in merges):
        if {left, right} <= vocabulary.keys() and left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            pairs.append((left, right))
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokens = [
        AddedToken(s, rstrip=s in family.swallows, special=True) for s in SPECIALS
    ]
    inner.add_special_tokens(tokens)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    fast.chat_template = family.template
    return TokenizerWrapper(fast)


def alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    letters: list[str] = pre_tokenizers.ByteLevel.alphabet()
    return letters


def byte_ranges(made: Any, tokens: list[int], text: str) -> list[tuple[int, int]]:
    """The bytes of `text` that each token is, found from the vocabulary alone."""
    raw, at, ranges = text.encode(), 0, []
    for name in made.convert_ids_to_tokens(tokens):
        size = len(name.encode() if name in SPECIALS else name)
        start = at
        at += size
        if name in SPECIALS:  # spaces it has swallowed are no token's
            following = made._tokenizer.backend_tokenizer
            added = {
                t.content: t for t in following.get_added_tokens_decoder().values()
            }
            while added[name].rstrip and raw[at : at + 1].isspace():
                at += 1
        ranges.append((start, at))
    assert at == len(raw)
    return ranges


def expected(made: Any, tokens: list[int], pieces: Pieces) -> list[bool]:
    """A token is learned if it holds some answer, or what follows one and no more."""
    text = "".join(piece for piece, _ in pieces)
    kinds = [kind for piece, kind in pieces for _ in piece.encode()]
    names = made.convert_ids_to_tokens(tokens)
    found = []
    for name, (start, end) in zip(names, byte_ranges(made, tokens, text), strict=True):
        here = set(kinds[start:end])
        if name in SPECIALS:
            found.append(kinds[start] == "end")
        else:
            found.append("says" in here or here == {"end"})
    return found


def mask(family: Family, messages: list[Message], made: Any) -> tuple[Any, list[int]]:
    conversation = Conversation({"messages": messages}, made)
    return conversation.assistant_mask(), conversation.tokens


def talk(*contents: str, first: str = "user") -> list[Message]:
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [
        {"role": roles[i % 2], "content": content} for i, content in enumerate(contents)
    ]


CONVERSATIONS = [
    talk("hi", "hello"),
    talk("hi", "\n\nhello", "and?", "    indented\n  more"),
    talk("hi ", " hello ", "\n", "\n", "x", "<think> y"),
    talk("Grüße", "über alles", "ü", "ü"),
    talk("hi", "hello", "again", "hello", "hello", "hello"),
    talk("", "<table>", "<", "<|", "", "", ":", ": "),
    talk("assistant: ASSISTANT: [/INST]", "user: USER: [INST]"),
    talk("Welcome!", "hi", "hello", first="assistant"),
    talk("\nWelcome!", "hi", "\nhello", "", "", first="assistant"),
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_learned_is_what_the_assistant_writes(
    name: str, messages: list[Message]
) -> None:
    family = FAMILIES[name]
    made = tokenizer(family)
    found, tokens = mask(family, messages, made)
    pieces = family.write(messages)
    assert found.labelled.tolist() == expected(made, tokens, pieces)
    assert (found.rewritten, found.unfound) == (0, 0)
    turns = sum(m["role"] == "assistant" for m in messages)
    last = messages[-1]["role"] == "assistant"
    assert found.endless == {"joined": turns, "late_end": int(last)}.get(name, 0)


PARTS = st.sampled_from(["\n", " ", "he", "l", "lo", ":", "<t", "ü", "]", ".", "an"])
CONTENTS = st.lists(st.lists(PARTS, max_size=5).map("".join), min_size=2, max_size=5)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(contents=CONTENTS, first=st.sampled_from(["user", "assistant"]))
def test_the_span_holds_for_any_text(
    name: str, contents: list[str], first: str
) -> None:
    family, messages = FAMILIES[name], talk(*contents, first=first)
    made = MADE.setdefault(name, tokenizer(family))
    found, tokens = mask(family, messages, made)
    assert found.labelled.tolist() == expected(made, tokens, family.write(messages))


MADE: dict[str, Any] = {}


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=30, deadline=None)
@given(contents=CONTENTS)
def test_without_offsets_what_is_certain_is_the_same(
    name: str, contents: list[str]
) -> None:
    """Prefixes are tokenised then: a token of both sides may take others along."""
    family, messages = FAMILIES[name], talk(*contents)
    made = MADE.setdefault(name, tokenizer(family))
    conversation = Conversation({"messages": messages}, Slow(made))
    found = conversation.assistant_mask()
    tokens, pieces = conversation.tokens, family.write(messages)
    wanted = expected(made, tokens, pieces)
    ranges = byte_ranges(made, tokens, "".join(piece for piece, _ in pieces))
    border = borders(pieces)
    for place, (start, end) in enumerate(ranges):
        if min((abs(b - c) for b in border for c in (start, end)), default=99) > 4:
            assert found.labelled[place] == wanted[place]
        # Without anything between turns, how far a token reaches cannot be known.
        if wanted[place] and name != "joined":
            assert found.labelled[place]


def borders(pieces: Pieces) -> list[int]:
    """Bytes before each piece whose kind is another than that before it."""
    sizes = np.cumsum([0, *(len(piece.encode()) for piece, _ in pieces)])
    kinds = [kind for _, kind in pieces]
    return [
        int(size)
        for size, one, other in zip(sizes[1:], kinds, kinds[1:], strict=False)
        if one != other
    ]


class Slow:
    """A tokenizer that does not tell where its tokens come from."""

    def __init__(self, made: Any) -> None:
        self.made, self.eos_token_id = made, made.eos_token_id
        self.chat_template = made.chat_template
        self.all_special_ids = made.convert_tokens_to_ids(SPECIALS)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        found: list[int] = self.made.encode(text, add_special_tokens=False)
        return found

    def apply_chat_template(self, messages: list[Message], **options: Any) -> Any:
        return self.made.apply_chat_template(messages, **options)


def test_the_stand_in_in_a_message_is_not_mistaken() -> None:
    """Where no prompt is rendered, a turn is found by a stand-in for its words."""

    def render(messages: Any, prompted: bool) -> str | None:
        text = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
        return None if prompted else text

    asked = f"What is {STAND_IN} or {STAND_IN}{STAND_IN}?"
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "A pair"},
    ]
    text = render(messages, False) or ""
    found = Turns(messages, text, render).find(1)
    assert isinstance(found, Turn)
    assert text[found.start : found.content_end] == "A pair"
