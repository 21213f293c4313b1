"""What clients send -> what is asked of a model."""

import json

import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.settings import Settings
from comigs_mlx.serving import requests
from comigs_mlx.serving.access import Access
from comigs_mlx.serving.catalogue import run_names
from comigs_mlx.serving.refusals import Refusal

ASK = {"model": "notes", "messages": [{"role": "user", "content": "hi"}]}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def chat(**given):
    return requests.chat(requests.parse(json.dumps({**ASK, **given}).encode()))


def test_what_is_left_out_is_as_in_the_app():
    nulls = dict.fromkeys(("temperature", "stop", "tools", "seed", "stream", "n"))
    for asked in (chat(), chat(**nulls, unknown={"x": 1})):
        assert asked.settings == Settings()
        assert (asked.stream, asked.likeliest) == (False, 0)


def test_every_setting_arrives():
    names = (*requests.NUMBERS, *requests.INTEGERS)
    given = dict.fromkeys(names, 1) | {"xtc_threshold": 0.5}
    asked = chat(**given, max_tokens=9, max_completion_tokens=7, stop="a")
    settings = asked.settings
    assert all(getattr(settings, name) == value for name, value in given.items())
    assert (settings.max_tokens, settings.stop) == (7, ("a",))
    bias = chat(logit_bias={"7": -5}, chat_template_kwargs={"enable_thinking": False})
    assert bias.settings.logit_bias == {7: -5.0}
    assert bias.settings.template_args == {"enable_thinking": False}


def test_messages_become_turns_and_one_system_prompt():
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }
    asked = chat(
        messages=[
            {"role": "system", "content": "Be"},
            {"role": "developer", "content": [{"type": "text", "text": "brief"}]},
            {"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": ""},
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            {"role": "system", "content": "late"},
        ]
    )
    assert asked.settings.system == "Be\n\nbrief"
    user, calls, result, late = asked.messages
    assert user == {"role": "user", "content": "ab"}
    assert (calls["content"], calls["tool_calls"][0]["function"]) == (
        "",
        {"name": "f", "arguments": {}},  # an object, as chat templates want it
    )
    assert "refusal" not in calls
    assert result == {"role": "tool", "content": "rain", "tool_call_id": "c1"}
    assert late["role"] == "system"


def test_tools_go_to_the_chat_template():
    asked = chat(tools=TOOLS)
    assert asked.tools == asked.settings.template_args["tools"] == TOOLS
    without = chat(tools=TOOLS, tool_choice="none")
    assert "tools" not in without.settings.template_args
    assert without.tools == []


def test_a_problem_names_its_field():
    with pytest.raises(Refusal) as caught:
        chat(top_p=2)
    assert caught.value.to_json()["error"] == {
        "message": "top_p 2.0 must be above 0 and at most 1",
        "type": "invalid_request_error",
        "param": "top_p",
        "code": None,
    }


def test_a_wrong_value_is_shown_short_and_escaped():
    with pytest.raises(Refusal, match=r"stream must be true or false, got '\\x1b"):
        chat(stream="\x1b" + "x" * 1000)


def test_names_of_runs():
    given = ("runs/notes", "work=a/b", "./c/d/")
    assert run_names(given) == {"notes": "runs/notes", "work": "a/b", "d": "./c/d/"}
    with pytest.raises(ConfigError, match="'x=1' cannot be the name .* --run NAME=DIR"):
        run_names(("runs/x=1",))


@pytest.mark.parametrize(
    "given", ["", None, "Bearer", "Bearer \xff", "Bearer " + "k" * 99]
)
def test_only_the_key_is_the_key(given):
    access = Access("k" * 20)
    with pytest.raises(Refusal):
        access.check_key(given)
    access.check_key("bearer " + "k" * 20)
