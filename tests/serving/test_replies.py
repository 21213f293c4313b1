"""Text into content, thinking and tool calls, however tokens divide it."""

import json
import re

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

from comigs_mlx.inference.replies import Alternative, SpokenToken
from comigs_mlx.inference.settings import Settings
from comigs_mlx.model.base import load_base
from comigs_mlx.serving.replies import Parts, Reply, Splitter
from comigs_mlx.serving.requests import Request

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    base = load_base(str(tiny_folder()))
    made = TokenizerWrapper(
        base.tokenizer._tokenizer,
        tool_parser=json_tools.parse_tool_call,
        tool_call_start=json_tools.tool_call_start,
        tool_call_end=json_tools.tool_call_end,
    )
    made._think_start, made._think_end = "<think>", "</think>"
    made._think_start_tokens, made._think_end_tokens = (1, 2), (1, 3)
    return made


def split(tokenizer, text, size, prompt=()):
    splitter, whole = Splitter(tokenizer, list(prompt), TOOLS), Parts()
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for number, piece in enumerate(pieces, 1):
        whole += splitter.add(piece, number == len(pieces))
    return whole


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_every_part_goes_where_it_belongs(tokenizer, size):
    text = f"<think>Let me see</think>I ask: {CALL} and {CALL}. a < b"
    parts = split(tokenizer, text, size)
    assert parts.reasoning == "Let me see"
    assert parts.content == "I ask:  and . a < b"
    assert [call["index"] for call in parts.calls] == [0, 1]
    for call in parts.calls:
        assert re.fullmatch(r"call_[0-9a-f]{24}", call["id"])
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"]) == {"city": "Bern"}


def test_a_prompt_may_end_within_a_thought(tokenizer):
    assert split(tokenizer, "hm</think>yes", 2, (9, 1, 2)).reasoning == "hm"
    assert split(tokenizer, "hm yes", 2, (9, 1, 2, 1, 3)).content == "hm yes"


@pytest.mark.parametrize(
    "inner", ["no JSON", "[1]", '"text"', "{}", '{"name": "f"}', "null"]
)
def test_what_is_no_call_is_text_and_nothing_is_lost(tokenizer, inner):
    parts = split(tokenizer, f"a<tool_call>{inner}</tool_call>b", 4)
    assert (parts.content, parts.calls) == (f"a{inner}b", [])


def test_an_unfinished_call_and_an_unfinished_mark_are_kept(tokenizer):
    assert split(tokenizer, CALL.removesuffix("</tool_call>"), 5).calls
    assert split(tokenizer, "a <tool_c", 1).content == "a <tool_c"


def reply(tokenizer, **asked):
    request = Request("notes", Settings(), chat=True, tools=TOOLS, **asked)
    made = Reply(request)
    made.begin(7, 3, Splitter(tokenizer, [], TOOLS))
    ids = range(len(CALL))
    tokens = [SpokenToken(i, CALL[i], [[1.0]], [], None, CALL[i], -0.5) for i in ids]
    end = SpokenToken(
        0, "", [[1.0]], [Alternative(0, "", 0.0)], "stop", "<|end|>", None
    )
    return made, [made.add(token) for token in [*tokens, end]]


def test_a_call_is_the_reason_of_the_end(tokenizer):
    made, pieces = reply(tokenizer)
    (choice,) = made.whole()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert set(call) == {"id", "type", "function"}
    sent = [piece["choices"][0] for piece in pieces if piece is not None]
    assert [each["delta"].get("tool_calls") is not None for each in sent] == [
        False,  # the role
        True,
        False,  # the end
    ]
    assert made.whole()["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


def test_every_token_is_told_where_probabilities_are_asked_for(tokenizer):
    made, pieces = reply(tokenizer, logprobs=1, routing=True)
    assert None not in pieces
    entries = [p["choices"][0]["logprobs"]["content"][0] for p in pieces]
    assert [entry["logprob"] for entry in entries] == [-0.5] * len(CALL) + [-9999.0]
    assert entries[-1]["top_logprobs"][0]["logprob"] == -9999.0
    assert len(made.whole()["choices"][0]["routing"]) == len(pieces)
    json.dumps(pieces, allow_nan=False)
