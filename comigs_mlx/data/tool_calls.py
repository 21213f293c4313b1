"""Gives tool calls one spelling: the functions that a message calls, and their
arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Message = dict[str, Any]
"""A message of a conversation, with role, content and perhaps tool calls."""


def normalised(message: Message) -> Message:
    """Turn OpenAI's older `function_call` into one of the message's `tool_calls`."""
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
    """Write all arguments of tool calls as objects; return None if there are none.

    OpenAI's form, JSON in a string, is parsed; anything else stays as it is.
    """
    if not any(_functions(messages)):
        return None
    return _changed(messages, _object)


def with_strings(messages: Sequence[Message]) -> list[Message]:
    """Write all arguments of tool calls as JSON in a string."""
    return _changed(messages, _string)


def prints_python(messages: Sequence[Message], text: str) -> bool:
    """Tell whether `text` shows arguments as Python prints them, which is no JSON."""
    all_arguments = (function["arguments"] for function in _functions(messages))
    return any(
        str(arguments) in text
        for arguments in all_arguments
        if isinstance(arguments, dict) and arguments
    )


def _object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _string(arguments: Any) -> Any:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False)


def _functions(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Yield the functions with arguments that `messages` call, nested as in OpenAI's
    form or not.
    """
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function", call) if isinstance(call, dict) else None
            if isinstance(function, dict) and "arguments" in function:
                yield function


def _changed(
    messages: Sequence[Message], change: Callable[[Any], Any]
) -> list[Message]:
    """Copy the messages, with every call's arguments changed."""
    copies = []
    for message in messages:
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            message = {**message, "tool_calls": [_call(c, change) for c in calls]}
        copies.append(message)
    return copies


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
