"""Conversations on plain data: order, editing, stopping, and nobody else's words."""

import threading

import pytest

from app.asked import Asked, blend
from app.chat import Chat
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.trace import from_json, to_json

BASE = Asked(max_tokens=3)


def events(chat, kind):
    found = chat.feed.changes(0, 0)["events"]
    return [event for event in found if event["kind"] == kind]


def said(chat):
    return [event["text"] for event in events(chat, "token")]


@pytest.fixture
def chat(office, until):
    desk, parrot = office()
    made = Chat(desk)
    made.parrot, made.idle = parrot, lambda: until(lambda: not made.feed.active)
    return made


def test_a_message_is_answered_token_by_token(chat, tmp_path):
    chat.send(" one two ", Asked(run=tmp_path, max_tokens=3))
    chat.idle()
    assert [e["text"] for e in events(chat, "user")] == ["one two"]
    assert said(chat) == ["one", "two", "one"]
    (end,) = events(chat, "reply_ends")
    assert end["problem"] is None
    # shares 0, 1/4, 1/2 in every layer: a quarter in the mean
    assert end["note"] == (
        "25 % specialist, about the same in every layer · 3 tokens · cut at max tokens"
    )


def test_the_next_message_knows_what_was_said(chat):
    chat.send("one", BASE)
    chat.idle()
    chat.send("two", BASE)
    chat.idle()
    messages, _ = chat.parrot.asked[-1]
    assert messages == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "oneoneone"},
        {"role": "user", "content": "two"},
    ]


def test_editing_forgets_what_came_after(chat):
    for text in ("one", "two"):
        chat.send(text, BASE)
        chat.idle()
    chat.edit(0, "zero", BASE)
    chat.idle()
    assert [e["text"] for e in events(chat, "user")] == ["zero"]
    assert said(chat) == ["zero"] * 3
    assert chat.parrot.asked[-1][0] == [{"role": "user", "content": "zero"}]


def test_retrying_asks_the_same_again(chat):
    chat.send("one", BASE)
    chat.idle()
    chat.retry(BASE)
    chat.idle()
    assert chat.parrot.asked[0][0] == chat.parrot.asked[1][0]
    assert len(events(chat, "reply_ends")) == 1


def test_stopping_keeps_what_was_said(office, until):
    desk, _ = office(delay=0.01)
    chat = Chat(desk)
    chat.send("one", Asked(max_tokens=4000))
    until(lambda: len(said(chat)) > 2)
    chat.stop()
    until(lambda: not chat.feed.active)
    assert 2 < len(said(chat)) < 4000
    assert events(chat, "reply_ends")[0]["note"].endswith("stopped")


def test_what_is_cleared_stays_cleared(office, until):
    desk, _ = office(delay=0.01)
    chat = Chat(desk)
    chat.send("one", Asked(max_tokens=4000))
    until(lambda: len(said(chat)) > 2)
    chat.clear()
    until(lambda: desk.queue == 0)
    assert chat.feed.changes(0, 0)["events"] == []
    assert chat.messages == []


def test_a_second_message_waits_for_the_first_answer(office):
    desk, _ = office(delay=0.05)
    chat = Chat(desk)
    chat.send("one", Asked(max_tokens=50))
    with pytest.raises(ConfigError, match="wait for it, or stop it"):
        chat.send("two", BASE)
    chat.stop()


def test_an_error_ends_the_answer_and_is_told(office, until):
    desk, _ = office(problem=RuntimeError("[malloc] Unable to allocate 1 bytes"))
    chat = Chat(desk)
    chat.send("a b c d", Asked(max_tokens=9))
    until(lambda: not chat.feed.active)
    (end,) = events(chat, "reply_ends")
    assert end["problem"].startswith("There is not enough memory")
    assert said(chat) == ["a", "b"]


def test_a_run_that_is_gone_is_told(chat, tmp_path):
    chat.send("one", Asked(run=tmp_path / "gone"))
    chat.idle()
    (end,) = events(chat, "reply_ends")
    assert end["problem"] == f"no run at {tmp_path / 'gone'}"


def test_chats_at_once_do_not_mix(office, until):
    desk, parrot = office(delay=0.001)
    chats = {word: Chat(desk) for word in ("red", "green", "blue", "white")}
    asked = Asked(max_tokens=40)
    threads = [
        threading.Thread(target=chat.send, args=(word, asked))
        for word, chat in chats.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: not any(chat.feed.active for chat in chats.values()))
    for word, chat in chats.items():
        assert said(chat) == [word] * 40
    assert len(parrot.asked) == 4


def test_a_conversation_becomes_one_trace(chat, tmp_path):
    chat.send("one two", Asked(run=tmp_path, max_tokens=2))
    chat.idle()
    trace = chat.trace()
    assert [(t.text, t.prompt) for t in trace.tokens] == [
        ("one two", True),
        ("one", False),
        ("two", False),
    ]
    assert trace.tokens[2].weights == [[0.75, 0.25]] * 4
    assert from_json(to_json(trace)) == trace


def test_replies_of_another_kind_keep_their_text_in_a_trace(chat, tmp_path):
    chat.send("one", BASE)
    chat.idle()
    chat.send("two", Asked(run=tmp_path, max_tokens=1))
    chat.idle()
    trace = chat.trace()
    assert from_json(to_json(trace)) == trace
    assert [t.text for t in trace.tokens] == ["one", "one", "one", "one", "two", "two"]


def test_nothing_can_be_saved_before_an_answer(chat):
    with pytest.raises(ConfigError, match="nothing to save yet"):
        chat.trace()


@pytest.mark.parametrize(
    ("text", "message"),
    [("  ", "Write something first"), (None, "Write"), ("x" * 200_001, "longer than")],
)
def test_messages_that_cannot_be_answered(chat, text, message):
    with pytest.raises(ConfigError, match=message):
        chat.send(text, BASE)
    assert chat.messages == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"experts": "all"}, "experts must be one of"),
        ({"temperature": 3.0}, "temperature from 0 to 2"),
        ({"top_p": 0.0}, "top-p"),
        ({"max_tokens": 0}, "max tokens"),
        ({"blend": float("nan")}, "must be numbers"),
    ],
)
def test_values_that_no_widget_gives(chat, values, message):
    with pytest.raises(ConfigError, match=message):
        chat.send("one", Asked(**values))


@pytest.mark.parametrize(
    ("experts", "weights"),
    [
        (["generalist", "specialist"], (0.75, 0.25)),
        (["generalist", "specialist", "specialist-1"], (0.75, 0.125, 0.125)),
        (["specialist", "specialist-1"], (0.5, 0.5)),
    ],
)
def test_a_blend_gives_each_side_its_share(experts, weights):
    assert blend(experts, 0.25) == weights
    assert sum(weights) == 1


def test_the_speaker_gets_the_settings(chat, tmp_path):
    asked = Asked(
        run=tmp_path, experts="blend", blend=0.25, max_tokens=1, system=" Be kind "
    )
    chat.send("one", asked)
    chat.idle()
    _, settings = chat.parrot.asked[0]
    assert settings.selection == (0.75, 0.25)
    assert settings.system == "Be kind"


def test_without_a_run_the_base_speaks(chat):
    chat.send("one", Asked(experts="auto", max_tokens=1))
    chat.idle()
    assert chat.parrot.asked[0][1].selection == "base"


@pytest.mark.parametrize("experts", ["specialist", "generalist", "blend"])
def test_without_a_run_nobody_else_is_answered_for(chat, experts):
    with pytest.raises(
        ConfigError, match="The base model alone has no .*: choose a run"
    ):
        chat.send("one", Asked(experts=experts, max_tokens=1))
    assert chat.parrot.asked == []
    assert chat.messages == []


def test_after_a_restart_a_page_begins_anew(office):
    epochs = {Chat(office()[0]).feed.changes(0, 0)["epoch"] for _ in range(3)}
    assert len(epochs) == 3
