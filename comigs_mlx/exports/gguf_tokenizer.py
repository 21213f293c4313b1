"""A tokenizer's fields in a GGUF file, as llama.cpp reads them.

llama.cpp has two kinds that matter here. `gpt2` is byte-level BPE: tokens and merges,
and the name of the rule that splits text into words first (`pre`). `llama` is
SentencePiece's BPE: a piece with a higher score is merged earlier. Fields and names are
those of llama.cpp's convert_hf_to_gguf.py; the rules, of its llama-vocab.cpp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.errors import UnsupportedModel
from comigs_mlx.model.base import Base

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's token types."""

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

SPLITS = {
    WORDS + r"\p{N}{1,3}" + REST: "llama-bpe",
    WORDS + r"\p{N}" + REST: "qwen2",
}
"""The expression that a tokenizer splits text by -> llama.cpp's name of it."""

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""What transformers calls a special token -> what GGUF calls its id."""


@dataclass
class Vocabulary:
    """The tokens of a GGUF file.

    Attributes:
        model: llama.cpp's kind of tokenizer, `gpt2` or `llama`.
        pre: The rule that splits text into words.
        tokens: The text of each token, by its id.
        types: The type of each token.
        merges: The merges of `gpt2`, the first one first: "left right".
        scores: The scores of `llama`.
        ids: The ids of special tokens, by GGUF's names.
        flags: The switches, by GGUF's names.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)


def vocabulary(base: Base, rows: int) -> Vocabulary:
    """Read the tokenizer of a base.

    Args:
        base: The base model.
        rows: The rows of its embedding; ids without a token get an unused one.

    Raises:
        UnsupportedModel: If llama.cpp has no such tokenizer.
    """
    backend = getattr(base.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModel(
            f"the tokenizer of {base.id} is not one of the library tokenizers, which "
            "alone can be written to GGUF: export with --format fused"
        )
    content = json.loads(backend.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise UnsupportedModel(
            f"a tokenizer of type {model['type']} cannot be written to GGUF, BPE can: "
            "export with --format fused"
        )
    tokens, types = _tokens(base, content, rows)
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    if _is_byte_level(content):
        made = Vocabulary("gpt2", split_rule(content), tokens, types)
        made.merges = [" ".join(_spaceless(part) for part in pair) for pair in pairs]
    else:
        made = Vocabulary("llama", "default", tokens, types)
        made.scores = _scores(tokens, pairs)
        made.flags["add_space_prefix"] = _adds_space(content)
    made.ids = dict(_special_ids(base))
    made.flags["add_bos_token"] = adds_bos(base.tokenizer)
    return made


def _tokens(
    base: Base, content: Mapping[str, Any], rows: int
) -> tuple[list[str], list[int]]:
    """Return the text and the type of each token, by its id."""
    added = {token["id"]: token for token in content["added_tokens"]}
    by_id = {i: token for token, i in base.tokenizer.get_vocab().items()}
    if max(by_id, default=-1) >= rows:
        raise UnsupportedModel(
            f"the tokenizer of {base.id} has ids up to {max(by_id)} and the model "
            f"{rows} rows: llama.cpp reads no such model"
        )
    unknown = content["model"].get("unk_token")
    tokens, types = [], []
    for i in range(rows):
        token = by_id.get(i)
        tokens.append(f"[PAD{i}]" if token is None else token)
        if token is None:
            types.append(UNUSED)
        elif token == unknown:
            types.append(UNKNOWN)
        elif i in added:
            types.append(CONTROL if added[i]["special"] else USER_DEFINED)
        else:
            types.append(BYTE if BYTE_TOKEN.fullmatch(token) else NORMAL)
    return tokens, types


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(content["decoder"]))


def _parts(component: Any) -> list[dict[str, Any]]:
    """Return the parts of a component of a tokenizer, which may be a sequence."""
    if component is None:
        return []
    for name in ("pretokenizers", "decoders", "normalizers"):
        if name in component:
            return [part for inner in component[name] for part in _parts(inner)]
    return [component]


def split_rule(content: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of how a byte-level tokenizer splits text into words.

    Args:
        content: The content of tokenizer.json.

    Raises:
        UnsupportedModel: If it is none that is known here; with a wrong one, text would
            become other tokens without a word.
    """
    parts = _parts(content["pre_tokenizer"])
    kinds = [part["type"] for part in parts]
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"]:
        return "smollm"
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"]:
        rule = SPLITS.get(parts[0]["pattern"].get("Regex", ""))
        if rule is not None:
            return rule
    raise UnsupportedModel(
        f"the tokenizer splits text into words by {', '.join(kinds) or 'nothing'} in a "
        "way that is not known here for llama.cpp: export with --format fused"
    )


def _spaceless(part: str) -> str:
    """Write a space in a merge as GGUF does, where a space stands between the parts."""
    return part.replace(" ", chr(ord(" ") + 256))


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """Return scores that merge pieces in the order of the merges.

    SentencePiece merges any two pieces whose union is one. So do the merges that are
    made of its model: they name every division of a piece into two.
    """
    first: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        first.setdefault("".join(pair), rank)
    return [-float(first.get(token, len(merges))) for token in tokens]


def _adds_space(content: Mapping[str, Any]) -> bool:
    """Tell whether a space is put before a text, as SentencePiece does by default."""
    before = [*_parts(content["normalizer"]), *_parts(content["pre_tokenizer"])]
    return any(
        part["type"] == "Prepend"
        or (part["type"] == "Metaspace" and part.get("prepend_scheme") != "never")
        for part in before
    )


def _special_ids(base: Base) -> Iterator[tuple[str, int]]:
    """Yield GGUF's name and the id of each special token.

    The end of a turn may be another token than the end of a text: where generation
    stops at several, it is the one that the chat template writes.
    """
    tokenizer = base.tokenizer
    for name, theirs in SPECIAL.items():
        if isinstance(i := getattr(tokenizer, f"{name}_token_id", None), int):
            yield theirs, i
    template = getattr(tokenizer, "chat_template", None) or ""
    ends = set(getattr(tokenizer, "eos_token_ids", ())) - {tokenizer.eos_token_id}
    for i in sorted(ends):
        if isinstance(template, str) and tokenizer.convert_ids_to_tokens(i) in template:
            yield "eot", i
            return


def adds_bos(tokenizer: Any) -> bool:
    """Tell whether the tokenizer itself puts the beginning before a text."""
    first = list(tokenizer.encode("a"))[:1]
    return bool(first) and first[0] == tokenizer.bos_token_id
