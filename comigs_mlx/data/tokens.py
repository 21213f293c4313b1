"""Samples to tokens: one stream for plain text, labelled sequences for chat.

The labels say which tokens are training targets.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        tokens: [N] int32.
        documents: [N] int32, the index of the document each token belongs to.
    """

    tokens: Ints
    documents: Ints


@dataclass(frozen=True, eq=False)
class LabelledSample:
    """One conversation.

    Attributes:
        tokens: [T] int32.
        labelled: [T] bool, True where the token is a target; never the first one.
    """

    tokens: Ints
    labelled: Bools


@dataclass(frozen=True, eq=False)
class Labelled:
    """Conversations in full, before they are cut to a sequence length.

    Attributes:
        samples: The samples in the order in which they were given.
        rewritten: Assistant turns not labelled, as the chat template rewrites them.
        unfound: Assistant turns not labelled, as they were not found in the rendering.
        endless: Labelled assistant turns without an end token.
    """

    samples: list[LabelledSample]
    rewritten: int = 0
    unfound: int = 0
    endless: int = 0


def token_stream(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    say: Say = quiet,
    advance: Advance = ignore,
) -> TokenStream:
    """Concatenate all texts, each without a beginning token and with EOS at its end.

    Args:
        samples: The samples, which hold plain texts.
        tokenizer: The tokenizer of the base model.
        say: Told how far it is, where it takes long.
        advance: Told how far it is each moment; may end it by raising.

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
) -> Labelled:
    """Render conversations with the tokenizer's chat template and label the targets.

    Args:
        samples: Conversations, prompt/completion pairs, or (unmasked only) texts.
        tokenizer: Needs a chat template, unless all samples are texts.
        mask_prompt: Label only the tokens that the assistant produces, else every
            token but the first.
        say: Told how far it is, where it takes long.
        advance: Told how far it is each moment; may end it by raising.

    Raises:
        DataError: If the template is missing or refuses a sample, or a text is to be
            masked.
    """
    _check_labelling(samples, tokenizer, mask_prompt)
    found: list[LabelledSample] = []
    counts, problems = [0, 0, 0], []
    progress = TokenisingProgress(len(samples), say, advance)
    chat = ChatTokenizer(tokenizer)
    for number, sample in enumerate(samples, 1):
        try:
            one, mask = _labelled(sample, chat, mask_prompt)
        except DataError as error:
            problems.append(f"{place(sample) or f'sample {number}'}: {error}")
            continue
        found.append(one)
        if mask is not None:
            more = mask.rewritten, mask.unfound, mask.endless
            counts = [a + b for a, b in zip(counts, more, strict=True)]
        progress(number)
    raise_all(DataError, problems)
    return Labelled(found, *counts)


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
) -> tuple[LabelledSample, Mask | None]:
    """The labelled sample, and what is known of its mask."""
    mask = None
    if "text" in sample:
        (tokens,) = text_tokens([sample["text"]], chat.tokenizer)
    else:
        conversation = Conversation(sample, chat)
        tokens = np.array(conversation.tokens, np.int32)
        mask = conversation.assistant_mask() if mask_prompt else None
    labelled = np.ones(len(tokens), np.bool_) if mask is None else mask.labelled.copy()
    labelled[:1] = False
    return LabelledSample(tokens, labelled), mask


def cut(
    labelled: Labelled, seq_len: int | None
) -> tuple[list[LabelledSample], list[str]]:
    """Truncate to `seq_len + 1` tokens (None: not) and drop what has no target left.

    Returns:
        The samples that have a target, in order, and counted notes on what was cut,
        dropped or not labelled.

    Raises:
        DataError: If no sample has a target, and why.
    """
    found = labelled.samples
    size = None if seq_len is None else seq_len + 1
    shortened = [LabelledSample(s.tokens[:size], s.labelled[:size]) for s in found]
    kept = [sample for sample in shortened if sample.labelled.any()]
    empty = sum(not sample.labelled.any() for sample in found)
    late = len(found) - len(kept) - empty
    if not kept:
        raise DataError(_no_target(labelled, size, empty, late))
    long = sum(len(s.tokens) > size for s in found) if size is not None else 0
    counted = {
        f"cut {long} of {len(found)} samples to {size} tokens (--seq-len)": long,
        f"dropped {late} of {len(found)} samples without a target": late,
        f"dropped {empty} of {len(found)} samples without an assistant turn to learn "
        "from": empty,
        **_turn_notes(labelled),
    }
    return kept, [note for note, count in counted.items() if count]


def _turn_notes(labelled: Labelled) -> dict[str, int]:
    """What a user should know of turns, and of how many."""
    return {
        f"not trained on {labelled.rewritten} assistant turns that the chat template "
        "rewrites later in the conversation": labelled.rewritten,
        f"not trained on {labelled.unfound} assistant turns that were not found in "
        "what the chat template makes of the conversation": labelled.unfound,
        f"{labelled.endless} assistant turns have no end token in the chat template: "
        "the model does not learn from them when to stop": labelled.endless,
    }


def _no_target(labelled: Labelled, size: int | None, empty: int, late: int) -> str:
    """Why no sample has a target, and what helps."""
    if not empty:
        return (
            f"none of {late} samples has a target in its first {size} tokens: raise "
            "--seq-len, shorten the prompts, or leave out --mask-prompt"
        )
    left = [note for note, count in _turn_notes(labelled).items() if count]
    left += [f"{late} samples have none in their first {size} tokens"] * (late > 0)
    why = "; ".join(left) or "there is no turn of the role assistant"
    return (
        f"none of {empty + late} samples has a target ({why}): leave out --mask-prompt "
        "or change the conversations"
    )
