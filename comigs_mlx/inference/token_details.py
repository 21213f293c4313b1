"""A token as mlx-lm hands it out, and what is computed of it on the side."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from comigs_mlx.inference.prompts import own_text
from comigs_mlx.inference.replies import Alternative, SpokenToken

LIKELIEST = 5
"""Alternatives of each token."""


class TokenDetails:
    """One response of mlx-lm, its routing and its alternatives.

    They are asked for when the next response is there, and are computed by then: so
    that a GPU never waits for Python to read them.
    """

    def __init__(self, response: Any, weights: mx.array | None):
        self._response = response
        self._weights = mx.zeros((0, 0)) if weights is None else weights
        few = min(LIKELIEST, response.logprobs.size)
        self._likely: Any = mx.argpartition(response.logprobs, kth=-few)[-few:]
        self._logs: Any = response.logprobs[self._likely].astype(mx.float32)
        mx.async_eval(self._weights, self._likely, self._logs)

    def token(self, tokenizer: Any) -> SpokenToken:
        """It as plain data."""
        response, probabilities = self._response, self._logs.exp().tolist()
        pairs = zip(probabilities, self._likely.tolist(), strict=True)
        others = [
            Alternative(id, own_text(tokenizer, id), probability)
            for probability, id in sorted(pairs, reverse=True)
        ]
        id, weights = response.token, cast("list[list[float]]", self._weights.tolist())
        return SpokenToken(
            id=id,
            text=response.text,
            weights=weights,
            alternatives=others,
            finish_reason=response.finish_reason,
            own=own_text(tokenizer, id),
        )
