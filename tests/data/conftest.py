"""Tokenizers of single bytes, with chat templates of the kinds models ship with."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

BEGIN, END, EOS = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

TURN = BEGIN + "{{ m.role }}\n{{ m.content }}" + END + "\n"
PROMPT = "{% if add_generation_prompt %}" + BEGIN + "assistant\n{% endif %}"
CHATML = "{% for m in messages %}" + TURN + "{% endfor %}" + PROMPT

TEMPLATES = {
    "chatml": CHATML,
    "default_system": (
        "{% if messages[0].role != 'system' %}"
        f"{BEGIN}system\nBe kind.{END}\n{{% endif %}}{CHATML}"
    ),
    # Qwen3: only the answer after the last question keeps its thinking block.
    "rewriting": (
        "{% set ns = namespace(last=-1) %}{% for m in messages %}"
        "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
        "{% endfor %}{% for m in messages %}" + BEGIN + "{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
        "<think>\n\n</think>\n\n{% endif %}{{ m.content }}" + END + "\n{% endfor %}"
    )
    + PROMPT,
    "marking": (
        "{% for m in messages %}{% if m.role == 'assistant' %}" + BEGIN + "assistant\n"
        "{% generation %}{{ m.content }}" + END + "{% endgeneration %}{{ '\n' }}"
        "{% else %}" + TURN + "{% endif %}{% endfor %}"
    )
    + PROMPT,
    "strict": "{{ raise_exception('roles must alternate') }}",
}


class Bytes:
    """The least a tokenizer can be: one token per byte, EOS 256, no template."""

    eos_token_id: int | None = 256
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [257] * add_special_tokens + list(text.encode())


@pytest.fixture
def bytes_tokenizer() -> Bytes:
    return Bytes()


@pytest.fixture(scope="session")
def chat_tokenizer() -> Callable[[str], Any]:
    """Name of a template -> mlx-lm's wrapper of a byte-level transformers tokenizer."""
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}

    def make(template: str) -> Any:
        inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        fast = PreTrainedTokenizerFast(
            tokenizer_object=inner,
            eos_token=EOS,
            extra_special_tokens=[BEGIN, END],
            chat_template=TEMPLATES[template],
        )
        return TokenizerWrapper(fast)

    return make


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for the `datasets` package: fill in dataset id -> splits -> rows."""
    known: dict[str, Any] = {}

    def load_dataset(name: str) -> Any:
        if name not in known:
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist.\nsecond line")
        return known[name]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return known
