"""Text to the tokens a model is given, and tokens to text again."""

from __future__ import annotations

import bisect
import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from comigs_mlx.errors import ConfigError, TooLong, line
from comigs_mlx.inference.replies import Message

if TYPE_CHECKING:
    from comigs_mlx.model.base import Base

TURNS = ("user", "assistant")
"""Roles that take turns."""

NO_ARGS: Mapping[str, Any] = MappingProxyType({})

UNLIMITED = 2**31
"""Tokens to generate where a model does not say how long its context is."""

ANSWER_SHARE = 4
"""Where messages are left out, up to one in so many tokens of the context is kept free
for the answer."""


BROKEN = "\ufffd"
"""What decoders write for bytes that are no whole character."""

WORD_START = "\u2581"
"""SentencePiece's sign for a space; its decoder drops the first one."""

SHOWN = {0xDC00 + byte: f"<0x{byte:02X}>" for byte in range(128, 256)}
"""How `own_text` writes such bytes; Python's `surrogateescape` marks them."""


def segments(tokenizer: Any, tokens: Sequence[int]) -> Iterator[str]:
    """What each token adds to the text; together they are all of it."""
    detokenizer = tokenizer.detokenizer
    for position, token in enumerate(tokens, 1):
        detokenizer.add_token(token)
        if position == len(tokens):
            detokenizer.finalize()
        yield detokenizer.last_segment


def own_text(tokenizer: Any, token: int) -> str:
    """A token alone, as it is: a token is bytes, and not always whole characters.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
        token: Token id.

    Returns:
        Its text; bytes that are no whole character in it as `<0xF0>`.
    """
    text: str = tokenizer.decode([token])
    piece = tokenizer.convert_ids_to_tokens(token)
    if BROKEN not in text:
        begins_word = str(piece).startswith(WORD_START) and not text.startswith(" ")
        return f" {text}" if begins_word else text
    alphabet = _byte_alphabet()
    if not isinstance(piece, str) or not all(letter in alphabet for letter in piece):
        return piece if isinstance(piece, str) else text  # SentencePiece: "<0xF0>"
    raw = bytes(alphabet[letter] for letter in piece)
    return raw.decode("utf-8", "surrogateescape").translate(SHOWN)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Letter -> byte, as byte-level vocabularies write bytes (GPT-2's `encoder.py`)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    moved = {chr(256 + i): byte for i, byte in enumerate(others)}
    return {**{chr(byte): byte for byte in visible}, **moved}


def check_text(text: Any, what: str) -> None:
    """See that something is text that a tokenizer can read.

    Args:
        text: What was given.
        what: What it is, for people: "the prompt".

    Raises:
        ConfigError: If it is no text, or holds half a character: what bytes that are
            not UTF-8 become on the command line, and half an emoji on a page.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{what} must be text, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{what} is not text in UTF-8: its character {error.start + 1:,} is "
            "broken; leave it out, or give the text in UTF-8"
        ) from error


def prompt_tokens(
    tokenizer: Any,
    prompt: str,
    system: str | None = None,
    template: bool = True,
    template_args: Mapping[str, Any] = NO_ARGS,
) -> list[int]:
    """Token ids of a prompt, in the model's chat template where it has one.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
        prompt: What the user says.
        system: System prompt.
        template: False gives the prompt to the model as it is, to be continued.
        template_args: Further arguments of the chat template.

    Raises:
        ConfigError: If there is no text, it is not UTF-8, the template refuses it, or
            there is a system prompt but no template.
    """
    check_text(prompt, "the prompt")
    if not prompt.strip():
        raise ConfigError("the prompt is empty: give some text with --prompt")
    if template and tokenizer.has_chat_template:
        turns = [{"role": "user", "content": prompt}]
        return chat_tokens(tokenizer, turns, system, template_args)
    return _plain_tokens(tokenizer, prompt, system)


def _plain_tokens(tokenizer: Any, text: str, system: str | None) -> list[int]:
    if system is not None:
        raise ConfigError("a system prompt needs the model's chat template")
    tokens = encoded(tokenizer, text)
    if not tokens:
        raise ConfigError("the model's tokenizer makes no token of this: say more")
    return tokens


def encoded(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, without a beginning or an end token."""
    with _unwarned():
        return list(tokenizer.encode(text, add_special_tokens=False))


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Without transformers' warning of long text: `room` says what comes of it."""
    logger = logging.getLogger("transformers.tokenization_utils_base")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def alternating(messages: Sequence[Message]) -> list[Message]:
    """A conversation in which user and assistant take turns.

    Many chat templates refuse any other. Turns without a character are left out: an
    answer that was stopped before its first word is none. Neighbours of one role are
    joined by a blank line: what was said before the stop still counts. Other roles,
    such as `system`, and messages that call tools stay as they are.

    Args:
        messages: The turns.

    Raises:
        ConfigError: If one has no role, or its content is no text.
    """
    turns: list[Message] = []
    for message in messages:
        if not isinstance(message.get("role"), str):
            raise ConfigError("each message needs a role: user or assistant")
        check_text(message.get("content"), f"a message of the {message['role']}")
        if message["role"] not in TURNS or message.get("tool_calls"):
            turns.append(dict(message))
        elif message["content"]:
            _take_turn(turns, message)
    return turns


def _take_turn(turns: list[Message], message: Message) -> None:
    last = turns[-1] if turns else {}
    if last.get("role") == message["role"] and "tool_calls" not in last:
        joined = f"{turns[-1]['content']}\n\n{message['content']}"
        turns[-1] = {**turns[-1], "content": joined}
    else:
        turns.append(dict(message))


def chat_tokens(
    tokenizer: Any,
    messages: Sequence[Message],
    system: str | None = None,
    template_args: Mapping[str, Any] = NO_ARGS,
) -> list[int]:
    """Token ids of a conversation, up to where the assistant speaks next.

    User and assistant are made to take turns; see `alternating`. A model without a
    chat template continues the turns, a blank line between them. An answer at the end
    that has `"prefix": True` is gone on with: nothing stands between it and what comes.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
        messages: The turns, at least one.
        system: System prompt.
        template_args: Further arguments of the chat template.

    Raises:
        ConfigError: If there is no text, it is not UTF-8, or the template refuses it.
    """
    turns = alternating(messages)
    if not any(turn["content"].strip() for turn in turns):
        raise ConfigError("the conversation is empty: say something first")
    if system is not None:
        check_text(system, "the system prompt")
    if turns[-1].get("prefix") and len(turns) > 1:
        asked = chat_tokens(tokenizer, turns[:-1], system, template_args)
        blank = "" if tokenizer.has_chat_template else "\n\n"
        return [*asked, *encoded(tokenizer, blank + turns[-1]["content"])]
    if not tokenizer.has_chat_template:
        text = "\n\n".join(turn["content"] for turn in turns)
        return _plain_tokens(tokenizer, text, system)
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    try:
        with _unwarned():
            tokens = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=False, **template_args
            )
    except Exception as error:  # a template is a program and may raise anything
        reason = line(error)
        without = ", or leave out the system prompt" if system is not None else ""
        raise ConfigError(
            f"the model's chat template refuses this conversation ({reason}): clear "
            f"it{without}, or choose another base model"
        ) from error
    return list(tokens)


def room(base: Base, prompt: Sequence[int]) -> int:
    """Tokens that can be spoken after a prompt before the model's context is full.

    Args:
        base: The model that reads it.
        prompt: Token ids.

    Raises:
        ConfigError: If there is no prompt, or no room.
        ModelError: If the model does not know a token.
    """
    if not len(prompt):
        raise ConfigError("the prompt is empty: say something first")
    base.check_tokens(prompt, "the prompt")
    if (most := base.context) is None:
        return UNLIMITED
    if len(prompt) >= most:
        raise TooLong(
            f"the prompt is {len(prompt):,} tokens long, {base.id} reads at most "
            f"{most:,}: shorten it"
        )
    return most - len(prompt)


def fitting(
    base: Base,
    messages: Sequence[Message],
    system: str | None,
    max_tokens: int,
    template_args: Mapping[str, Any] = NO_ARGS,
) -> tuple[list[int], int]:
    """A conversation's tokens, without its oldest turns where it is too long.

    What is left begins with a message of the user, and leaves room for an answer: for
    `max_tokens`, or a quarter of the context where that is less.

    Args:
        base: The model that reads it.
        messages: The turns so far.
        system: System prompt; never left out.
        max_tokens: Tokens of the answer at most.
        template_args: Further arguments of the chat template.

    Returns:
        Token ids, and how many of the oldest messages are left out.

    Raises:
        ConfigError: As for `chat_tokens`, or if the last message of the user is too
            long alone.
    """

    def told(start: int) -> list[int]:
        return chat_tokens(base.tokenizer, messages[start:], system, template_args)

    tokens = told(0)
    if (most := base.context) is None:
        return tokens, 0
    longest = most - min(max_tokens, most // ANSWER_SHARE)
    starts = [i for i in range(1, len(messages)) if messages[i]["role"] == "user"]
    if len(tokens) <= longest or not starts:
        return tokens, 0

    def fits(start: int) -> bool:
        return len(told(start)) <= longest

    # The first that fits, or the last message of the user alone.
    left_out = starts[bisect.bisect_left(starts[:-1], True, key=fits)]
    return told(left_out), left_out
