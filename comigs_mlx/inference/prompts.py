"""Text to the tokens a model is given, and tokens to text again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.spoken import Message


def segments(tokenizer: Any, tokens: Sequence[int]) -> Iterator[str]:
    """What each token adds to the text; together they are all of it."""
    detokenizer = tokenizer.detokenizer
    for position, token in enumerate(tokens, 1):
        detokenizer.add_token(token)
        if position == len(tokens):
            detokenizer.finalize()
        yield detokenizer.last_segment


def prompt_tokens(
    tokenizer: Any, prompt: str, system: str | None = None, template: bool = True
) -> list[int]:
    """Token ids of a prompt, in the model's chat template where it has one.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
        prompt: What the user says.
        system: System prompt.
        template: False gives the prompt to the model as it is, to be continued.

    Raises:
        ConfigError: If there is no token, or a system prompt but no template.
    """
    if template and tokenizer.has_chat_template:
        return chat_tokens(tokenizer, [{"role": "user", "content": prompt}], system)
    if system is not None:
        raise ConfigError("a system prompt needs the model's chat template")
    tokens = tokenizer.encode(prompt, add_special_tokens=False)
    if not tokens:
        raise ConfigError("the prompt is empty: give some text with --prompt")
    return list(tokens)


def chat_tokens(
    tokenizer: Any, messages: Sequence[Message], system: str | None = None
) -> list[int]:
    """Token ids of a conversation, up to where the assistant speaks next.

    A model without a chat template continues the turns, a blank line between them.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
        messages: The turns, at least one.
        system: System prompt.

    Raises:
        ConfigError: If there is no text, or the template refuses it.
    """
    turns = [dict(message) for message in messages]
    if not turns:
        raise ConfigError("the conversation is empty: say something first")
    if not tokenizer.has_chat_template:
        text = "\n\n".join(turn["content"] for turn in turns)
        return prompt_tokens(tokenizer, text, system, template=False)
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    try:
        tokens = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
    except Exception as error:  # a template is a program and may raise anything
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"the model's chat template refuses this conversation ({reason}): clear "
            "it, or leave out the system prompt"
        ) from error
    return list(tokens)
