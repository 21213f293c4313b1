"""One fact, several spellings: what a message calls, and with which arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Message = dict[str, Any]


def normalised(message: Message) -> Message:
    """The message with OpenAI's older `function_call` as one of its `tool_calls`."""
    message = dict(message)
    call = message.pop("function_call", None)
    if call is not None and not message.get("tool_calls"):
        message["tool_calls"] = [{"type": "function", "function": call}]
    if message.get("role") == "function":
        message["role"] = "tool"
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)
    return message


def with_objects(messages: Sequence[Message]) -> list[Message] | None:
    """The messages with all arguments of tool calls as objects; None without any.

    OpenAI's form, JSON in a string, is read; what is no JSON object stays as it is.
    """
    if not any(_functions(messages)):
        return None
    return _changed(messages, _object)


def with_strings(messages: Sequence[Message]) -> list[Message]:
    """The messages with all arguments of tool calls as JSON in a string."""
    return _changed(messages, _string)


def prints_python(messages: Sequence[Message], text: str) -> bool:
    """Whether arguments stand in `text` as Python prints them, which is no JSON."""
    found = (function["arguments"] for function in _functions(messages))
    return any(
        str(arguments) in text
        for arguments in found
        if isinstance(arguments, dict) and arguments
    )


def _object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _string(arguments: Any) -> Any:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False)


def _functions(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """What has arguments in the calls of `messages`, nested as OpenAI does or not."""
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function", call) if isinstance(call, dict) else None
            if isinstance(function, dict) and "arguments" in function:
                yield function


def _changed(
    messages: Sequence[Message], change: Callable[[Any], Any]
) -> list[Message]:
    """A copy of the messages with every call's arguments changed."""
    made = []
    for message in messages:
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            message = {**message, "tool_calls": [_call(c, change) for c in calls]}
        made.append(message)
    return made


def _call(call: Any, change: Callable[[Any], Any]) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _call(call["function"], change)}
    return (
        {**call, "arguments": change(call["arguments"])}
        if "arguments" in call
        else call
    )
