"""A body of JSON -> what is asked: plain data, no MLX.

The names are OpenAI's, and beside them those of mlx-lm's server (`top_k`, `min_p`,
`repetition_penalty`, `chat_template_kwargs` and others) and ours: `lean`, `prior` and
`routing`. A field that is null counts as left out; a field that nobody here knows is
not looked at, as clients send many. One that would change the answer and cannot be
followed (`n` above 1, a JSON schema, images) is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from comigs_mlx.data.tool_calls import normalised, with_objects
from comigs_mlx.inference.replies import Message
from comigs_mlx.inference.settings import Settings
from comigs_mlx.serving.refusals import Refusal

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
KEPT = ("role", "content", "name", "tool_calls", "tool_call_id")
"""Fields of a message that a chat template is given."""

NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "xtc_probability",
    "xtc_threshold",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "lean",
    "prior",
)
INTEGERS = (
    "seed",
    "top_k",
    "min_tokens_to_keep",
    "repetition_context_size",
    "presence_context_size",
    "frequency_context_size",
)
"""Fields of a request that are fields of `Settings` with the same name."""

MOST_STOPS, MOST_STOP = 16, 200
"""Stop texts, and the characters of each: every token is compared with all."""

MOST_LIKELY = 20
"""Alternatives of a token, as at OpenAI."""

MOST_DEPTH = 40
"""Levels of nesting in a body."""

OURS = ("chat_template", "tools")
"""Template arguments that are refused: the first one would run a foreign template."""


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        model: The name of the model.
        settings: The way in which the answer is drawn, without the selection, which the
            model's name says.
        chat: Whether it is a conversation; otherwise `prompt` is to be continued.
        messages: The turns, without the leading system prompt, which `settings` has.
        prompt: The text or the token ids to continue.
        tools: The tools that the model may call, as OpenAI writes them.
        stream: Whether the answer is sent piece by piece.
        usage: Whether a stream ends with the number of tokens.
        logprobs: The alternatives that are told with each token's probability; None
            tells no probabilities.
        routing: Whether each token's experts are told.
    """

    model: str
    settings: Settings
    chat: bool
    messages: list[Message] = field(default_factory=list)
    prompt: str | list[int] = ""
    tools: list[Any] = field(default_factory=list)
    stream: bool = False
    usage: bool = False
    logprobs: int | None = None
    routing: bool = False

    @property
    def likeliest(self) -> int:
        """The alternatives to ask of a batch; 0 where no details are wanted."""
        if self.logprobs is None and not self.routing:
            return 0
        return max(1, self.logprobs or 0)


def parse(body: bytes) -> Body:
    """The fields of a body.

    Raises:
        Refusal: If it is no JSON object.
    """
    try:
        values = json.loads(body.decode(), parse_constant=_constant)
        _check_depth(values)
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Refusal(400, f"the body is no JSON in UTF-8 ({error})") from None
    if not isinstance(values, dict):
        raise Refusal(400, "the body must be a JSON object")
    return Body(values)


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _check_depth(value: Any) -> None:
    """Refuse deep nesting, at which a chat template might fail."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise RecursionError
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [
            item
            for values in inner
            if not isinstance(values, (str, int, float, type(None)))
            for item in values
            if isinstance(item, (dict, list))
        ]


class Body:
    """The fields of a request, each with its type checked when it is asked for."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def has(self, name: str) -> bool:
        """Whether a field is there and is not null."""
        return self._values.get(name) is not None

    def get(self, name: str, *kinds: type[Any], default: Any = None) -> Any:
        """A field of one of these types; `default` where it is left out or null.

        Raises:
            Refusal: If it is of another type, or text that is not Unicode.
        """
        value = self._values.get(name)
        if value is None:
            return default
        right = isinstance(value, kinds) and (
            bool in kinds or not isinstance(value, bool)
        )
        if not right:
            words = " or ".join(WORDS[kind] for kind in kinds)
            raise Refusal(400, f"{name} must be {words}, got {shown(value)}", name)
        if isinstance(value, str):
            _check_unicode(name, value)
        return value

    def number(self, name: str) -> float | None:
        """A number that fits a float; None where it is left out.

        Raises:
            Refusal: If it is none.
        """
        value = self.get(name, float, int)
        if value is None:
            return None
        try:
            return float(value)
        except OverflowError:
            return math.inf  # whatever the range is, this is beyond it


WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def shown(value: Any) -> str:
    """A foreign value for a message, escaped and in 40 characters."""
    text = ascii(value if isinstance(value, (str, int, float, bool)) else type(value))
    if isinstance(value, (dict, list)):
        text = WORDS[type(value)]
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(400, f"{name} holds half a character", name) from None


def chat(body: Body) -> Request:
    """What a body asks of `/v1/chat/completions`.

    Raises:
        Refusal: If a field cannot work.
    """
    _check_plain(body)
    system, messages = _messages(body)
    tools = _tools(body)
    arguments = dict(body.get("chat_template_kwargs", dict, default={}))
    for name in OURS:
        if name in arguments:
            raise Refusal(
                400, f"chat_template_kwargs must not set {name}", "chat_template_kwargs"
            )
    if tools:
        arguments["tools"] = tools
    settings = _settings(body, system=system, template_args=arguments)
    told = body.get("logprobs", bool, default=False)
    likely = body.get("top_logprobs", int)
    if likely is not None and not (told and 0 <= likely <= MOST_LIKELY):
        raise Refusal(
            400,
            f"top_logprobs must be from 0 to {MOST_LIKELY}, with logprobs true",
            "top_logprobs",
        )
    return _request(
        body,
        settings,
        chat=True,
        messages=messages,
        tools=tools,
        logprobs=(likely or 0) if told else None,
    )


def completion(body: Body) -> Request:
    """What a body asks of `/v1/completions`.

    Raises:
        Refusal: If a field cannot work.
    """
    _check_plain(body)
    for name in ("suffix", "echo"):
        if body.has(name) and body.get(name, str, bool):
            raise Refusal(400, f"{name} is not offered: leave it out", name)
    likely = body.get("logprobs", int)
    if likely is not None and not 0 <= likely <= MOST_LIKELY:
        raise Refusal(400, f"logprobs must be from 0 to {MOST_LIKELY}", "logprobs")
    given = _settings(body)
    return _request(body, given, chat=False, prompt=_prompt(body), logprobs=likely)


def _request(body: Body, settings: Settings, **given: Any) -> Request:
    options = Body(body.get("stream_options", dict, default={}))
    return Request(
        model=body.get("model", str, default="") or _missing("model"),
        settings=settings,
        stream=body.get("stream", bool, default=False),
        usage=options.get("include_usage", bool, default=False),
        routing=body.get("routing", bool, default=False),
        **given,
    )


def _missing(name: str) -> NoReturn:
    raise Refusal(400, f"{name} is missing", name)


def _check_plain(body: Body) -> None:
    """Refuse what would change the answer and is not offered."""
    for name in ("n", "best_of"):
        if body.get(name, int, default=1) != 1:
            raise Refusal(400, f"{name} must be 1: ask several times", name)
    form = Body(body.get("response_format", dict, default={}))
    if form.get("type", str, default="text") != "text":
        raise Refusal(
            400, "response_format must be text: no other is offered", "response_format"
        )


def _settings(body: Body, **given: Any) -> Settings:
    """How the answer is drawn, checked."""
    values: dict[str, Any] = {name: body.number(name) for name in NUMBERS}
    values |= {name: body.get(name, int) for name in INTEGERS}
    tokens = [body.get(name, int) for name in ("max_completion_tokens", "max_tokens")]
    values["max_tokens"] = next((each for each in tokens if each is not None), None)
    values = {name: value for name, value in values.items() if value is not None}
    settings = Settings(**values, logit_bias=_biases(body), stop=_stops(body), **given)
    names = {"chat_template_args": "chat_template_kwargs"}
    problems = list(settings.problems(lambda name: names.get(name, name)))
    if problems:
        first = problems[0].split()[0]
        raise Refusal(400, "; ".join(problems), first if body.has(first) else None)
    return settings


def _biases(body: Body) -> dict[int, float]:
    biases = {}
    for token, bias in body.get("logit_bias", dict, default={}).items():
        number = type(bias) in (int, float)
        if not (number and token.isascii() and token.isdigit() and len(token) < 10):
            raise Refusal(
                400, 'logit_bias must be like {"42": -5.0}: token ids', "logit_bias"
            )
        biases[int(token)] = float(bias) if abs(bias) < 1e30 else math.inf
    return biases


def _stops(body: Body) -> tuple[str, ...]:
    given = body.get("stop", str, list, default=[])
    words = [given] if isinstance(given, str) else given
    right = all(isinstance(word, str) and 0 < len(word) <= MOST_STOP for word in words)
    if not right or len(words) > MOST_STOPS:
        raise Refusal(
            400,
            f"stop must be a text or a list of at most {MOST_STOPS} texts, of 1 to "
            f"{MOST_STOP} characters each",
            "stop",
        )
    for word in words:
        _check_unicode("stop", word)
    return tuple(words)


def _prompt(body: Body) -> str | list[int]:
    """The one prompt: text, token ids, or a list with one of these."""
    prompt = body.get("prompt", str, list)
    if isinstance(prompt, list) and len(prompt) == 1 and not _is_token(prompt[0]):
        prompt = Body({"prompt": prompt[0]}).get("prompt", str, list)
    if isinstance(prompt, list) and not all(map(_is_token, prompt)):
        raise Refusal(400, "prompt must be one text or one list of token ids", "prompt")
    if not prompt:
        raise Refusal(400, "prompt is empty: give some text", "prompt")
    return prompt


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _messages(body: Body) -> tuple[str | None, list[Message]]:
    """The system prompt and the turns after it."""
    given = body.get("messages", list, default=[])
    if not given:
        raise Refusal(400, "messages is empty: say something", "messages")
    turns = [_message(number, each) for number, each in enumerate(given)]
    first = next((i for i, t in enumerate(turns) if t["role"] != "system"), len(turns))
    system = "\n\n".join(turn["content"] for turn in turns[:first] if turn["content"])
    turns = turns[first:]
    return system or None, with_objects(turns) or turns


def _message(number: int, message: Any) -> Message:
    where = f"messages[{number}]"
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        roles = ", ".join(ROLES)
        raise Refusal(400, f"{where} must be an object with a role of {roles}", where)
    message = normalised(message)
    if message["role"] == "developer":
        message["role"] = "system"
    content = _content(where, message.get("content"))
    kept = {name: message[name] for name in KEPT if message.get(name) is not None}
    for name in ("name", "tool_call_id"):
        Body(kept).get(name, str)
    _check_calls(where, Body(kept).get("tool_calls", list, default=[]))
    return {**kept, "content": content}


def _content(where: str, content: Any) -> str:
    """Text, or the texts of a list of parts, joined."""
    parts = (
        content if isinstance(content, list) else [{"type": "text", "text": content}]
    )
    if content is None:
        return ""
    for part in parts:
        if not isinstance(part, dict) or part.get("type") not in ("text", "input_text"):
            raise Refusal(
                400, f"{where}.content must be text: nothing else is offered", where
            )
        if not isinstance(part.get("text"), str):
            raise Refusal(400, f"{where}.content must be text", where)
        _check_unicode(where, part["text"])
    return "".join(part["text"] for part in parts)


def _check_calls(where: str, calls: Sequence[Any]) -> None:
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not (isinstance(function, dict) and isinstance(function.get("name"), str)):
            raise Refusal(
                400, f"{where}.tool_calls must be functions with a name", where
            )


def _tools(body: Body) -> list[Any]:
    """The tools that the model is told of."""
    tools = body.get("tools", list, default=[])
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not (isinstance(function, dict) and isinstance(function.get("name"), str)):
            raise Refusal(
                400,
                'tools must be like [{"type": "function", "function": {"name": ...}}]',
                "tools",
            )
    choice = body.get("tool_choice", str, dict, default="auto")
    if choice not in ("auto", "none"):
        raise Refusal(
            400,
            "tool_choice must be auto or none: no model can be made to call a tool",
            "tool_choice",
        )
    return [] if choice == "none" else tools
