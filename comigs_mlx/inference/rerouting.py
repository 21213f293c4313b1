"""Rerouting at test time: a tilt found by gradient on the context. Experimental, off.

    delta [layers, E] starts at 0;  5 steps of Adam, rate 0.05, to lessen
    the mean over the context's tokens of -log p(token | those before it, tilt + delta)

Source: Su et al., "Rewiring Experts on the Fly", arXiv 2510.14853, which optimises
additive vectors on the routers' logits for each request, 5 steps at 0.05. What differs
here: all adapted blocks are used, not a share of them; the optimiser is Adam, as the
paper's is not known to us, and the best of all steps is taken; it is done once for each
answer and not again while it is generated; and the prompt is read with the new tilt
from its beginning, so that kept keys and values are never those of another tilt.

The context is what the assistant has said and text that was pasted, never what the user
types: a user's own words are what their specialist fits best, so that optimising on
them would always say "me".

    python -m comigs_mlx.generate --run runs/notes --prompt "Go on" --reroute letter.txt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from comigs_mlx.inference import tilts
from comigs_mlx.inference.prompts import check_text, encoded
from comigs_mlx.inference.replies import Message
from comigs_mlx.inference.settings import Settings
from comigs_mlx.messages import Note, Say, quiet
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.training.losses import summed_loss

RATE = 0.05
"""Adam's learning rate: what a logit moves by in the first step."""

MOST_TOKENS = 512
"""The end of the context that is used."""

LEAST_TOKENS = 8
"""A context of fewer tokens is not used: it says nothing."""

Step = Callable[[int, int], None]
"""Told how many steps are done, and of how many."""


def nothing(done: int, total: int) -> None:
    """A `Step` that does nothing."""


def context(
    base: Base, messages: Sequence[Message] = (), pasted: str = ""
) -> list[int]:
    """The tokens to optimise on: the last of pasted text and assistant turns.

    Args:
        base: The base model, whose tokenizer is used.
        messages: The conversation; what the user says is left out.
        pasted: Text that the user did not write.

    Raises:
        ConfigError: If it is no text in UTF-8.
        ModelError: If the model does not know one of the tokens.
    """
    spoken = [turn["content"] for turn in messages if turn.get("role") == "assistant"]
    text = "\n\n".join(part for part in (pasted, *spoken) if part)
    check_text(text, "the context")
    most = min(MOST_TOKENS, base.context or MOST_TOKENS)
    tokens = encoded(base.tokenizer, text)[-most:] if text else []
    base.check_tokens(tokens, "the context")
    return tokens


def loss(mixture: Mixture, tokens: mx.array, tilt: mx.array) -> mx.array:
    """The mean loss of a context with a tilt, in nats a token.

    Args:
        mixture: Attached; its router is asked.
        tokens: Token ids, `[1, tokens]`.
        tilt: The tilt of the routers' logits, `[layers, E]`.
    """
    targets = tokens[:, 1:]
    with mixture.selected("auto"), mixture.tilted(tilt):
        hidden, _ = mixture.body(tokens[:, :-1])
    counted = mx.ones(targets.shape)
    return summed_loss(mixture.head, hidden, targets, counted) / targets.size


def found(
    mixture: Mixture,
    tokens: Sequence[int],
    start: tilts.Values,
    steps: int,
    step: Step = nothing,
) -> tuple[tilts.Values, list[float]]:
    """The best tilt of some steps, and the loss before the first and after each.

    Args:
        mixture: Attached; no parameter changes.
        tokens: The context, at least two tokens.
        start: The tilt `[layers, E]` that is there besides.
        steps: The number of steps, at least 1.
        step: Is called before each step with the number done and of all; may raise.

    Returns:
        What is to be added to `start`: of the smallest loss, so 0 if no step helped;
        and `steps + 1` losses in nats a token.
    """
    row, besides = mx.array([list(tokens)]), tilts.as_input(start)
    values = {"delta": mx.zeros(start.shape)}
    optimiser = optim.Adam(RATE, bias_correction=True)
    tried, losses = list[tilts.Values](), list[float]()
    gradient = mx.value_and_grad(lambda delta: loss(mixture, row, besides + delta))
    for done in range(steps):
        step(done, steps)
        value, slope = gradient(values["delta"])
        tried.append(np.array(values["delta"]))
        losses.append(float(np.array(value)))
        values = optimiser.apply_gradients({"delta": slope}, values)
    tried.append(np.array(values["delta"]))
    last = loss(mixture, row, besides + values["delta"])
    losses.append(float(np.array(last)))
    return tried[int(np.argmin(losses))], losses


def rerouted(
    settings: Settings,
    mixture: Mixture,
    tokens: Sequence[int],
    say: Say = quiet,
    step: Step = nothing,
) -> Settings:
    """The settings with the tilt that a context asks for; itself where it is off.

    Args:
        settings: The settings that were asked for; `reroute` is the number of steps.
        mixture: The mixture, attached.
        tokens: The tokens that `context` returns.
        say: Receives a sentence on what it has brought.
        step: Is called before each step with the number done and of all; may raise.
    """
    if not settings.reroute or len(tokens) < LEAST_TOKENS:
        return settings
    besides = tilts.rows(mixture, settings)
    start = tilts.lean_rows(mixture, settings.lean or 0.0) + besides
    delta, losses = found(mixture, tokens, start, settings.reroute, step)
    say(
        Note(
            f"rerouting took the loss of the context from {losses[0]:.4f} to "
            f"{min(losses):.4f}"
        )
    )
    return replace(settings, tilt=tilts.as_rows(besides + delta))
