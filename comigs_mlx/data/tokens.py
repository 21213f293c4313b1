"""Samples to tokens: one stream for plain text, labelled sequences for chat.

The labels say which tokens are training targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from comigs_mlx.data.conversation import (
    Bools,
    ChatTokenizer,
    Conversation,
    Ints,
    Mask,
    Tokenizer,
    has_template,
)
from comigs_mlx.data.encoding import TokenisingProgress, chunks, text_tokens
from comigs_mlx.data.reading_progress import Advance, ignore
from comigs_mlx.data.splits import Sample, place
from comigs_mlx.errors import DataError, raise_all
from comigs_mlx.messages import Say, quiet


@dataclass(frozen=True, eq=False)
class TokenStream:
    """Documents one after the other.

    Attributes:
        tokens: The tokens of all documents, [N] int32.
        documents: The index of the document that each token belongs to, [N] int32.
    """

    tokens: Ints
    documents: Ints


@dataclass(frozen=True, eq=False)
class LabelledSample:
    """A conversation as tokens.

    Attributes:
        tokens: The tokens of the conversation, [T] int32.
        labelled: True where the token is a target; never the first one, [T] bool.
    """

    tokens: Ints
    labelled: Bools


@dataclass(frozen=True, eq=False)
class Labelled:
    """Conversations in full, before they are cut to a sequence length.

    Attributes:
        samples: The samples in the order in which they were given.
        rewritten: The number of assistant turns not labelled, as the chat template
            rewrites them.
        unfound: The number of assistant turns not labelled, as the rendering does not
            show them.
        endless: The number of labelled assistant turns without an end token.
        refused: The number of opening turns of the assistant that were left out, as
            the template wants the user to begin.
    """

    samples: list[LabelledSample]
    rewritten: int = 0
    unfound: int = 0
    endless: int = 0
    refused: int = 0


NO_MASK = Mask(np.zeros(0, np.bool_))


def token_stream(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    say: Say = quiet,
    advance: Advance = ignore,
) -> TokenStream:
    """Concatenate all texts, each without a beginning token and with EOS at its end.

    Args:
        samples: The samples, all of them plain texts.
        tokenizer: The tokenizer of the base model.
        say: Receives a sentence on how far the work is, where it takes long.
        advance: Is called at each step of the work, which it ends by raising.

    Raises:
        DataError: If the tokenizer has no EOS token.
    """
    parts: list[Ints] = []
    progress = TokenisingProgress(len(samples), say, advance)
    for chunk in chunks([sample["text"] for sample in samples]):
        parts += text_tokens(chunk, tokenizer)
        progress(len(parts))
    lengths = [len(part) for part in parts]
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return TokenStream(
        tokens, np.repeat(np.arange(len(parts), dtype=np.int32), lengths)
    )


def labelled_samples(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    mask_prompt: bool,
    say: Say = quiet,
    advance: Advance = ignore,
    mixed: bool = False,
) -> Labelled:
    """Render conversations with the tokenizer's chat template and label the targets.

    Args:
        samples: The conversations, prompt/completion pairs, or (unmasked only) texts.
        tokenizer: The tokenizer, which needs a chat template unless all samples are
            texts.
        mask_prompt: Whether to label only the tokens that the assistant produces,
            instead of every token but the first; so it is of a sample with "mask":
            "assistant" in any case.
        say: Receives a sentence on how far the work is, where it takes long.
        advance: Is called at each step of the work, which it ends by raising.
        mixed: Whether texts may stand beside conversations; all their tokens are
            targets then.

    Raises:
        DataError: If the template is missing or refuses a sample, or a text is to be
            masked.
    """
    _check_labelling(samples, tokenizer, mask_prompt and not mixed)
    labelled: list[LabelledSample] = []
    counts, problems = [0, 0, 0, 0], []
    progress = TokenisingProgress(len(samples), say, advance)
    chat = ChatTokenizer(tokenizer)
    for number, sample in enumerate(samples, 1):
        try:
            tokens, mask, refused = _labelled(sample, chat, mask_prompt)
        except DataError as error:
            problems.append(f"{place(sample) or f'sample {number}'}: {error}")
            continue
        labelled.append(tokens)
        mask = mask or NO_MASK
        turns = mask.rewritten, mask.unfound, mask.endless, refused
        counts = [a + b for a, b in zip(counts, turns, strict=True)]
        progress(number)
    raise_all(DataError, problems)
    return Labelled(labelled, *counts)


def _check_labelling(
    samples: Sequence[Sample], tokenizer: Tokenizer, mask_prompt: bool
) -> None:
    texts = sum("text" in sample for sample in samples)
    if texts and mask_prompt:
        raise DataError(
            f"expected conversations, found {texts} samples of plain text, which have "
            "no prompt: leave out --mask-prompt"
        )
    if texts < len(samples) and not has_template(tokenizer):
        raise DataError(
            "the tokenizer has no chat template, which conversations need: choose an "
            'instruct model, or give the data as {"text": ...}'
        )


def _labelled(
    sample: Sample, chat: ChatTokenizer, mask_prompt: bool
) -> tuple[LabelledSample, Mask | None, int]:
    """Tokenise and label a sample.

    Returns:
        The sample, the mask it was given, if any, and the number of its turns that the
        template refuses.
    """
    mask, refused = None, 0
    if "text" in sample:
        (tokens,) = text_tokens([sample["text"]], chat.tokenizer)
    else:
        conversation, refused = _conversation(sample, chat)
        if conversation is None:
            return LabelledSample(np.zeros(0, np.int32), np.zeros(0, np.bool_)), None, 1
        tokens = np.array(conversation.tokens, np.int32)
        masked = mask_prompt or sample.get("mask") == "assistant"
        mask = conversation.assistant_mask() if masked else None
    labelled = np.ones(len(tokens), np.bool_) if mask is None else mask.labelled.copy()
    labelled[:1] = False
    return LabelledSample(tokens, labelled), mask, refused


def _conversation(
    sample: Sample, chat: ChatTokenizer
) -> tuple[Conversation | None, int]:
    """Render a conversation, if need be without its first turn, if another is left.

    In chats I may speak first, and am the assistant. Some templates, such as Gemma's,
    want the user to begin; what nobody said is not put before my words.
    """
    try:
        return Conversation(sample, chat), 0
    except DataError:
        turns = sample.get("messages") or [{}]
        if "mask" not in sample or turns[0].get("role") != "assistant":
            raise
        rest = turns[1:]
        return Conversation({**sample, "messages": rest}, chat) if rest else None, 1


def cut(
    labelled: Labelled, seq_len: int | None, windowed: Sequence[bool] = ()
) -> tuple[list[LabelledSample], list[str]]:
    """Truncate samples to `seq_len + 1` tokens (None: not), and drop those without a
    target.

    Args:
        labelled: The samples in full.
        seq_len: The inputs per sequence, in tokens.
        windowed: Says of each sample whether it is cut into consecutive windows instead
            of truncated; by default none is.

    Returns:
        The samples that have a target, in order, and counted notes on what was cut,
        dropped or not labelled.

    Raises:
        DataError: If no sample has a target; the text says why.
    """
    samples = labelled.samples
    size = None if seq_len is None else seq_len + 1
    if seq_len is not None and any(windowed):
        samples = list(_windows(samples, windowed, seq_len))
    shortened = [LabelledSample(s.tokens[:size], s.labelled[:size]) for s in samples]
    usable = [sample for sample in shortened if sample.labelled.any()]
    empty = sum(not sample.labelled.any() for sample in samples)
    late = len(samples) - len(usable) - empty
    if not usable:
        raise DataError(_no_target(labelled, size, empty, late))
    long = sum(len(s.tokens) > size for s in samples) if size is not None else 0
    counted = {
        f"cut {long} of {len(samples)} samples to {size} tokens (--seq-len)": long,
        f"dropped {late} of {len(samples)} samples without a target": late,
        f"dropped {empty} of {len(samples)} samples without an assistant turn to learn "
        "from": empty,
        **_turn_notes(labelled),
    }
    return usable, [note for note, count in counted.items() if count]


def _windows(
    samples: Sequence[LabelledSample], windowed: Sequence[bool], seq_len: int
) -> Iterator[LabelledSample]:
    """Cut samples into windows of `seq_len` inputs, where they are to be.

    A window begins with the last token of the one before, so that every target is one
    exactly once. Windows without a target are left out beside those with one.
    """
    for sample, is_cut in zip(samples, windowed, strict=True):
        if not is_cut:
            yield sample
            continue
        parts = []
        for start in range(0, max(len(sample.tokens) - 1, 1), seq_len):
            part = slice(start, start + seq_len + 1)
            labelled = sample.labelled[part].copy()
            labelled[:1] = False
            parts.append(LabelledSample(sample.tokens[part], labelled))
        yield from [part for part in parts if part.labelled.any()] or parts[:1]


def _turn_notes(labelled: Labelled) -> dict[str, int]:
    """Map each note on turns that the user should read to the number of turns."""
    return {
        f"not trained on {labelled.rewritten} assistant turns that the chat template "
        "rewrites later in the conversation": labelled.rewritten,
        f"not trained on {labelled.unfound} assistant turns that were not found in "
        "what the chat template makes of the conversation": labelled.unfound,
        f"{labelled.endless} assistant turns have no end token in the chat template: "
        "the model does not learn from them when to stop": labelled.endless,
        f"left out {labelled.refused} opening turns of yours, as the chat template "
        "wants somebody else to begin": labelled.refused,
    }


def _no_target(labelled: Labelled, size: int | None, empty: int, late: int) -> str:
    """Tell why no sample has a target, and what helps."""
    if not empty:
        return (
            f"none of {late} samples has a target in its first {size} tokens: raise "
            "--seq-len, shorten the prompts, or leave out --mask-prompt"
        )
    reasons = [note for note, count in _turn_notes(labelled).items() if count]
    reasons += [f"{late} samples have none in their first {size} tokens"] * (late > 0)
    why = "; ".join(reasons) or "there is no turn of the role assistant"
    return (
        f"none of {empty + late} samples has a target ({why}): leave out --mask-prompt "
        "or change the conversations"
    )
