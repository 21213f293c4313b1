"""Tokens -> the JSON of an answer, whole or in pieces, as OpenAI writes it.

A piece is made of each token that adds anything. What is between a model's marks of
thinking goes to `reasoning_content`, what is between those of a tool call becomes
`tool_calls`: mlx-lm finds the marks and parses the calls. Ours is `routing`: of each
token its number, its text and the weights `[layers][experts]` of the blocks.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.inference.replies import SpokenToken
from comigs_mlx.serving.requests import Request

LEAST_LOG = -9999.0
"""What OpenAI writes for a token that is all but impossible."""

DIGITS = 5
"""Of a weight; more would make a piece of a large model long."""


@dataclass
class Parts:
    """What a piece of text adds to an answer.

    Attributes:
        content: The text to be read.
        reasoning: The model's thinking before it.
        calls: Tool calls that are whole now, as OpenAI writes them.
    """

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls)

    def __iadd__(self, other: Parts) -> Parts:
        self.content += other.content
        self.reasoning += other.reasoning
        self.calls += other.calls
        return self


class Splitter:
    """Divides the text of an answer into content, thinking and tool calls."""

    def __init__(self, tokenizer: Any, prompt: list[int], tools: list[Any]):
        """Begin an answer.

        Args:
            tokenizer: mlx-lm's tokenizer wrapper, which knows the model's marks.
            prompt: The token ids of the prompt, which may end within a thought.
            tools: The tools that the model may call.
        """
        from mlx_lm.generate import make_text_state_machine

        machine = make_text_state_machine(tokenizer)
        self._split, self._flush = machine.split, machine.flush
        self._parser, self._tools = tokenizer.tool_parser, tools
        state = "normal"
        if tokenizer.has_thinking:
            begun = tokenizer.rfind_think_start(prompt)
            state = "reasoning" if begun > tokenizer.rfind_think_end(prompt) else state
        state = tokenizer.response_initial_state or state
        self._state, self._before = machine.make_state(state), state
        self._call, self._count = "", 0

    def add(self, text: str, last: bool) -> Parts:
        """What more text adds; what may be the beginning of a mark is held back.

        Args:
            text: The text of one token.
            last: Whether nothing comes after it.
        """
        self._state, segments = self._split(self._state, text)
        if last:
            self._state, rest, state = self._flush(self._state)
            segments.append((state, rest))
        parts = Parts()
        for state, each in segments:
            if self._before == "tool" != state:
                parts += self._called()
            if state == "tool":
                self._call += each
            elif state == "reasoning":
                parts.reasoning += each
            else:
                parts.content += each
            self._before = state
        if last and self._call:
            parts += self._called()
        return parts

    def _called(self) -> Parts:
        """The calls in the text between the marks; the text itself if it is none."""
        text, self._call = self._call, ""
        try:
            parsed = self._parser(text, self._tools or None)
            calls = parsed if isinstance(parsed, list) else [parsed]
            return Parts(calls=[self._formatted(dict(call)) for call in calls])
        except Exception:  # a model may write anything, and each parser fails its way
            return Parts(content=text)

    def _formatted(self, call: dict[str, Any]) -> dict[str, Any]:
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        function = {"name": str(call["name"]), "arguments": arguments}
        index, self._count = self._count, self._count + 1
        id = f"call_{uuid.uuid4().hex[:24]}"
        return {"index": index, "id": id, "type": "function", "function": function}


class Plain:
    """The same for a text that is continued: all of it is content."""

    def add(self, text: str, last: bool) -> Parts:
        """The text, as it is."""
        return Parts(text)


class Reply:
    """One answer as it grows, in the form that its request asks for."""

    def __init__(self, request: Request):
        """Begin an answer.

        Args:
            request: The request that it answers.
        """
        self._request = request
        kind = "chatcmpl" if request.chat else "cmpl"
        self._head = {
            "id": f"{kind}-{uuid.uuid4().hex}",
            "object": "chat.completion" if request.chat else "text_completion",
            "created": int(time.time()),
            "model": request.model,
        }
        self._parts, self._read, self._cached = Parts(), 0, 0
        self._splitter: Splitter | Plain = Plain()
        self._tokens: list[SpokenToken] = []
        self._reason: str | None = None

    def begin(self, read: int, cached: int, splitter: Splitter | Plain) -> None:
        """Take what is known before the first token.

        Args:
            read: The tokens of the prompt.
            cached: Those of them that were read for an earlier request.
            splitter: The divider of its text.
        """
        self._read, self._cached, self._splitter = read, cached, splitter

    def add(self, token: SpokenToken) -> dict[str, Any] | None:
        """Take a token; the piece of the stream that it makes, None if it adds nothing.

        Args:
            token: The next one.
        """
        parts = self._splitter.add(token.text, token.finish_reason is not None)
        first = not self._tokens
        self._tokens.append(token)
        self._parts += parts
        if token.finish_reason is not None:
            calls = self._parts.calls and token.finish_reason == "stop"
            self._reason = "tool_calls" if calls else token.finish_reason
        told = self._request.likeliest or self._reason is not None
        if not (parts or first or told):
            return None
        return self._piece(parts, token, first)

    def _piece(self, parts: Parts, token: SpokenToken, first: bool) -> dict[str, Any]:
        choice = self._choice([token])
        if self._request.chat:
            start: dict[str, Any] = {"role": "assistant", "content": ""}
            choice["delta"] = (start if first else {}) | _said(parts)
            if parts.calls:
                choice["delta"]["tool_calls"] = parts.calls
        else:
            choice["text"] = parts.content
        head = self._head
        if self._request.chat:
            head = {**head, "object": "chat.completion.chunk"}
        usage = {"usage": None} if self._request.usage else {}
        return {**head, "choices": [choice], **usage}

    def usage_piece(self) -> dict[str, Any]:
        """The last piece of a stream that is to tell the number of tokens."""
        name = "chat.completion.chunk" if self._request.chat else "text_completion"
        return {**self._head, "object": name, "choices": [], "usage": self._usage()}

    def whole(self) -> dict[str, Any]:
        """The answer in one object, once its last token is there."""
        choice = self._choice(self._tokens)
        parts = self._parts
        if self._request.chat:
            content = parts.content or (None if parts.calls else "")
            message = {"role": "assistant", **_said(parts), "content": content}
            if parts.calls:
                calls = [
                    {k: v for k, v in c.items() if k != "index"} for c in parts.calls
                ]
                message["tool_calls"] = calls
            choice["message"] = message
        else:
            choice["text"] = parts.content
        return {**self._head, "choices": [choice], "usage": self._usage()}

    @property
    def tokens(self) -> int:
        """How many tokens there are so far."""
        return len(self._tokens)

    def _choice(self, tokens: list[SpokenToken]) -> dict[str, Any]:
        """What a choice says of its tokens, in both forms."""
        request = self._request
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._reason}
        choice["logprobs"] = None
        if request.logprobs is not None:
            many = request.logprobs
            if request.chat:
                entries = [_entry(token, many) for token in tokens]
                choice["logprobs"] = {"content": entries}
            else:
                choice["logprobs"] = _old_entries(tokens, many)
        if request.routing:
            choice["routing"] = [_routing(token) for token in tokens]
        return choice

    def _usage(self) -> dict[str, Any]:
        drawn = len(self._tokens)
        return {
            "prompt_tokens": self._read,
            "completion_tokens": drawn,
            "total_tokens": self._read + drawn,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }


def _said(parts: Parts) -> dict[str, Any]:
    said = {"content": parts.content, "reasoning_content": parts.reasoning}
    return {name: text for name, text in said.items() if text}


def _routing(token: SpokenToken) -> dict[str, Any]:
    weights = [[round(w, DIGITS) for w in layer] for layer in token.weights]
    return {"id": token.id, "token": token.own, "weights": weights}


def _entry(token: SpokenToken, many: int) -> dict[str, Any]:
    """A token's probability and its alternatives, as in a chat."""
    others = [_one(text, log) for text, log in _likely(token, many)]
    return {**_one(token.own, _log(token)), "top_logprobs": others}


def _one(text: str, log: float) -> dict[str, Any]:
    # A part of a character is shown as "<0xF0>"; which bytes those were is not told.
    raw = None if "<0x" in text else list(text.encode("utf-8", "replace"))
    return {"token": text, "logprob": log, "bytes": raw}


def _log(token: SpokenToken) -> float:
    value = token.log_probability
    return LEAST_LOG if value is None else max(value, LEAST_LOG)


def _likely(token: SpokenToken, many: int) -> Iterator[tuple[str, float]]:
    for each in token.alternatives[:many]:
        yield each.text, max(each.log_probability, LEAST_LOG)


def _old_entries(tokens: list[SpokenToken], many: int) -> dict[str, Any]:
    """Tokens' probabilities as `/v1/completions` tells them."""
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token.text))
    return {
        "tokens": [token.own for token in tokens],
        "token_logprobs": [_log(token) for token in tokens],
        "top_logprobs": [dict(_likely(token, many)) for token in tokens],
        "text_offset": ends[:-1],
    }
