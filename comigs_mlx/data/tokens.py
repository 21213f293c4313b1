"""Samples to tokens: one stream for plain text, labelled sequences for chat.

The labels say which tokens are training targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from comigs_mlx.data.conversation import (
    Bools,
    Conversation,
    Ints,
    Tokenizer,
    has_template,
)
from comigs_mlx.data.encoding import Progress, Say, chunks, quiet, text_tokens
from comigs_mlx.data.splits import Sample
from comigs_mlx.errors import DataError, raise_all


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
        samples: In the order given.
        unproven: Assistant turns that could not be labelled.
    """

    samples: list[LabelledSample]
    unproven: int


def token_stream(
    samples: Sequence[Sample], tokenizer: Tokenizer, say: Say = quiet
) -> TokenStream:
    """Concatenate all texts, each without a beginning token and with EOS at its end.

    Args:
        samples: Plain texts.
        tokenizer: The base model's.
        say: Told how far it is, where it takes long.

    Raises:
        DataError: If the tokenizer has no EOS token.
    """
    parts: list[Ints] = []
    progress = Progress(len(samples), say)
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
) -> Labelled:
    """Render conversations with the tokenizer's chat template and label the targets.

    Args:
        samples: Conversations, prompt/completion pairs, or (unmasked only) texts.
        tokenizer: Needs a chat template, unless all samples are texts.
        mask_prompt: Label only the tokens that the assistant produces, else every
            token but the first.
        say: Told how far it is, where it takes long.

    Raises:
        DataError: If the template is missing or refuses a sample, or a text is to be
            masked.
    """
    _check_labelling(samples, tokenizer, mask_prompt)
    found, unproven, problems = [], 0, []
    progress = Progress(len(samples), say)
    for number, sample in enumerate(samples, 1):
        try:
            one, missed = _labelled(sample, tokenizer, mask_prompt)
        except DataError as error:
            problems.append(f"sample {number}: {error}")
            continue
        found.append(one)
        unproven += missed
        progress(number)
    raise_all(DataError, problems)
    return Labelled(found, unproven)


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
    sample: Sample, tokenizer: Tokenizer, mask_prompt: bool
) -> tuple[LabelledSample, int]:
    """The labelled sample, and how many assistant turns could not be labelled."""
    unproven = 0
    if "text" in sample:
        (tokens,) = text_tokens([sample["text"]], tokenizer)
        labelled = np.ones(len(tokens), np.bool_)
    else:
        conversation = Conversation(sample, tokenizer)
        tokens = np.array(conversation.tokens, np.int32)
        labelled = np.ones(len(tokens), np.bool_)
        if mask_prompt:
            labelled, unproven = conversation.assistant_mask()
    labelled[:1] = False
    return LabelledSample(tokens, labelled), unproven


def cut(
    labelled: Labelled, seq_len: int | None
) -> tuple[list[LabelledSample], list[str]]:
    """Truncate to `seq_len + 1` tokens (None: not) and drop what has no target left.

    Returns:
        The samples that have a target, in order, and counted notes on what was cut,
        dropped or not labelled.

    Raises:
        DataError: If no sample has a target.
    """
    found, unproven = labelled.samples, labelled.unproven
    size = None if seq_len is None else seq_len + 1
    shortened = [LabelledSample(s.tokens[:size], s.labelled[:size]) for s in found]
    kept = [sample for sample in shortened if sample.labelled.any()]
    if not kept:
        where, fix = "", ""
        if size is not None:
            where, fix = f" in its first {size} tokens", "raise --seq-len, "
        raise DataError(
            f"none of {len(found)} samples has a target{where} "
            f"({unproven} assistant turns rewritten by the chat template): {fix}"
            "shorten the prompts, or leave out --mask-prompt"
        )
    long = sum(len(s.tokens) > size for s in found) if size is not None else 0
    dropped = len(found) - len(kept)
    counted = {
        f"cut {long} of {len(found)} samples to {size} tokens (--seq-len)": long,
        f"dropped {dropped} of {len(found)} samples without a target": dropped,
        f"not trained on {unproven} assistant turns that the chat template rewrites "
        "later in the conversation": unproven,
    }
    return kept, [note for note, count in counted.items() if count]
