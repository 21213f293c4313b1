"""Conversations on plain data: order, editing, stopping, and nobody else's words."""

import json
import threading
from pathlib import Path

import pytest

from app import chat as chatting
from app.chat import Chat, Turn, history
from app.chat_settings import ReplyOptions, blend
from app.kept_replies import Reply, Said
from app.store import Store
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.replies import Progress
from comigs_mlx.inference.trace import from_json, to_json

BASE = ReplyOptions(max_tokens=3)


def events(chat, kind):
    found = chat.feed.changes(0, 0)["events"]
    return [event for event in found if event["kind"] == kind]


def said(chat):
    return [event["text"] for event in events(chat, "token")]


@pytest.fixture
def chat(model_queue, until):
    desk, parrot = model_queue()
    made = Chat(desk)
    made.parrot, made.idle = parrot, lambda: until(lambda: not made.feed.active)
    return made


def test_a_message_is_answered_token_by_token(chat, tmp_path):
    chat.send(" one two ", ReplyOptions(run=tmp_path, max_tokens=3))
    chat.idle()
    assert [e["text"] for e in events(chat, "user")] == [" one two"]
    assert said(chat) == ["", "one", "two"]
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


def test_stopping_keeps_what_was_said(model_queue, until):
    desk, _ = model_queue(delay=0.01)
    chat = Chat(desk)
    chat.send("one", ReplyOptions(max_tokens=4000))
    until(lambda: len(said(chat)) > 2)
    chat.stop()
    until(lambda: not chat.feed.active)
    assert 2 < len(said(chat)) < 4000
    assert events(chat, "reply_ends")[0]["note"].endswith("stopped")


def test_what_is_cleared_stays_cleared(model_queue, until):
    desk, _ = model_queue(delay=0.01)
    chat = Chat(desk)
    chat.send("one", ReplyOptions(max_tokens=4000))
    until(lambda: len(said(chat)) > 2)
    chat.clear()
    until(lambda: desk.queue == 0)
    assert chat.feed.changes(0, 0)["events"] == []
    assert chat.messages == []


def test_a_second_message_waits_for_the_first_answer(model_queue):
    desk, _ = model_queue(delay=0.05)
    chat = Chat(desk)
    chat.send("one", ReplyOptions(max_tokens=50))
    with pytest.raises(ConfigError, match="wait for it, or stop it"):
        chat.send("two", BASE)
    chat.stop()


def test_an_error_ends_the_answer_and_is_told(model_queue, until):
    desk, _ = model_queue(problem=RuntimeError("[malloc] Unable to allocate 1 bytes"))
    chat = Chat(desk)
    chat.send("a b c d", ReplyOptions(max_tokens=9))
    until(lambda: not chat.feed.active)
    (end,) = events(chat, "reply_ends")
    assert end["problem"].startswith("There is not enough memory")
    assert said(chat) == ["a", "b"]


def test_a_run_that_is_gone_is_told(chat, tmp_path):
    chat.send("one", ReplyOptions(run=tmp_path / "gone"))
    chat.idle()
    (end,) = events(chat, "reply_ends")
    assert end["problem"] == f"no run at {tmp_path / 'gone'}"


def test_chats_at_once_do_not_mix(model_queue, until):
    desk, parrot = model_queue(delay=0.001)
    chats = {word: Chat(desk) for word in ("red", "green", "blue", "white")}
    asked = ReplyOptions(max_tokens=40)
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
    chat.send("one two", ReplyOptions(run=tmp_path, max_tokens=2))
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
    chat.send("two", ReplyOptions(run=tmp_path, max_tokens=1))
    chat.idle()
    trace = chat.trace()
    assert from_json(to_json(trace)) == trace
    assert [t.text for t in trace.tokens] == ["one", "one", "one", "one", "two", "two"]


def test_weights_of_other_experts_are_not_taken_for_these(chat):
    def reply(*experts):
        said = Said(1, "a", packed=b"\x10\x27\x00\x00")
        return Reply(base="demo", experts=list(experts), layers=["l"], tokens=[said])

    chat._turns = [
        Turn("one", reply("specialist", "generalist")),
        Turn("two", reply("generalist", "specialist")),
    ]
    trace = chat.trace()
    assert trace.experts == ["generalist", "specialist"]
    assert [t.weights for t in trace.tokens if not t.prompt] == [
        [[0.0, 0.0]],
        [[1.0, 0.0]],
    ]


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
        ({"temperature": 3.0}, "temperature 3.0 must be from 0 to 2"),
        ({"top_p": 0.0}, "top-p"),
        ({"max_tokens": 0}, "max tokens"),
        ({"blend": float("nan")}, "must be numbers"),
        ({"lean": 1.0}, "The base model alone leans to nobody: choose a run"),
        ({"run": Path("x"), "lean": 4.5}, "lean is from -4 to 4"),
        ({"run": Path("x"), "lean": float("nan")}, "lean is from -4 to 4"),
    ],
)
def test_values_that_no_widget_gives(chat, values, message):
    with pytest.raises(ConfigError, match=message):
        chat.send("one", ReplyOptions(**values))


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
    asked = ReplyOptions(
        run=tmp_path, experts="blend", blend=0.25, max_tokens=1, system=" Be kind "
    )
    chat.send("one", asked)
    chat.idle()
    _, settings = chat.parrot.asked[0]
    assert settings.selection == (0.75, 0.25)
    assert settings.system == "Be kind"


@pytest.mark.parametrize(
    ("experts", "lean"), [("auto", -1.5), ("generalist", None), ("blend", None)]
)
def test_the_lean_is_that_of_the_mixture(experts, lean):
    asked = ReplyOptions(run=Path("x"), experts=experts, lean=-1.5)
    settings = asked.settings(["generalist", "specialist"])
    assert settings.lean == lean
    settings.check()


def test_without_a_run_the_base_speaks(chat):
    chat.send("one", ReplyOptions(experts="auto", max_tokens=1))
    chat.idle()
    assert chat.parrot.asked[0][1].selection == "base"


@pytest.mark.parametrize("experts", ["specialist", "generalist", "blend"])
def test_without_a_run_nobody_else_is_answered_for(chat, experts):
    with pytest.raises(
        ConfigError, match="The base model alone has no .*: choose a run"
    ):
        chat.send("one", ReplyOptions(experts=experts, max_tokens=1))
    assert chat.parrot.asked == []
    assert chat.messages == []


def test_after_a_restart_a_page_begins_anew(model_queue):
    epochs = {Chat(model_queue()[0]).feed.changes(0, 0)["epoch"] for _ in range(3)}
    assert len(epochs) == 3


def ask(chat, *texts, **options):
    for text in texts:
        chat.send(text, ReplyOptions(max_tokens=2, **options))
        chat.idle()


def texts(chat):
    return [event["text"] for event in events(chat, "user")]


@pytest.fixture
def kept(model_queue, until, tmp_path):
    """A conversation that is kept, and how to read it again in another process."""
    desk, parrot = model_queue()
    store = Store(tmp_path)

    def opened():
        made = Chat(desk, store, "a" * 32)
        made.idle = lambda: until(lambda: not made.feed.active)
        made.desk, made.parrot = desk, parrot
        return made

    return opened


def test_a_restart_loses_nothing(kept, tmp_path):
    chat = kept()
    ask(chat, "one", "two", run=tmp_path)
    again = kept()
    assert texts(again) == ["one", "two"]
    shown, before = (
        again.feed.changes(0, 0)["events"],
        chat.feed.changes(0, 0)["events"],
    )
    assert shown == before
    assert again.trace() == chat.trace()
    ask(again, "three")
    assert [m["content"] for m in again.parrot.asked[-1][0]] == [
        "one",
        "oneone",
        "two",
        "twotwo",
        "three",
    ]


def test_an_answer_cut_off_by_the_apps_end_is_kept_as_far_as_it_came(
    model_queue, until, tmp_path
):
    desk, _ = model_queue(delay=0.01)
    store = Store(tmp_path)
    chat = Chat(desk, store, "a" * 32)
    chat._next_save = 0.0
    chat.send("one", ReplyOptions(max_tokens=4000))
    until(lambda: len(said(chat)) > 2)
    assert texts(Chat(desk, store, "a" * 32)) == ["one"]  # killed right now
    chat.close()
    until(lambda: not chat.feed.active)
    again = Chat(desk, store, "a" * 32)
    assert len(said(again)) > 2
    assert "stopped" in events(again, "reply_ends")[0]["note"]
    assert not again.feed.active


def test_half_an_answer_says_that_the_app_ended(kept):
    chat = kept()
    ask(chat, "one")
    chat._turns[0].reply.remark = ""
    chat.close()
    note = events(kept(), "reply_ends")[0]["note"]
    assert note.endswith("stopped: the app ended")


def test_clear_and_edit_and_retry_can_be_undone(kept):
    chat = kept()
    assert not chat.extras["undo"]
    ask(chat, "one", "two", "three")
    before = chat.messages
    chat.clear()
    assert texts(chat) == []
    assert chat.extras["undo"]
    chat = kept()  # also after a restart
    chat.undo()
    assert chat.messages == before
    chat.edit(0, "other", BASE)
    chat.idle()
    assert texts(chat) == ["other"]
    chat.undo()
    assert chat.messages == before
    chat.undo()  # what was undone is not lost either
    assert texts(chat) == ["other"]
    chat.retry(BASE)
    chat.idle()
    chat.undo()
    assert texts(chat) == ["other"]


def test_without_anything_to_undo_it_is_said(kept):
    with pytest.raises(ConfigError, match="nothing to undo"):
        kept().undo()


def test_two_edits_in_a_row_can_both_be_undone(kept):
    chat = kept()
    ask(chat, "one")
    for text in ("two", "three"):
        chat.edit(0, text, BASE)
        chat.idle()
    chat.undo()
    assert texts(chat) == ["two"]
    chat.undo()
    assert texts(chat) == ["one"]


def test_what_has_no_words_leaves_no_file(kept, tmp_path):
    chat = kept()
    chat.clear()
    chat.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"turns": 3},
        {"shown": [7]},
        {"turns": [{"reply": None}]},
        {"turns": [{"text": 1}]},
        {"earlier": 4},
        {"turns": [{"text": "a", "reply": {"tokens": [[1]]}}]},
    ],
)
def test_a_kept_conversation_that_cannot_be_is_refused_and_left(kept, tmp_path, change):
    chat = kept()
    ask(chat, "one")
    file = tmp_path / ".conversations" / f"{'a' * 32}.json"
    content = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="left as it is in .*Begin a new one"):
        kept()
    assert json.loads(file.read_text()) == content


def test_roles_alternate_whatever_happened():
    answered = Turn("b", Reply(tokens=[Said(1, "B")], remark="x"))
    stopped = Turn("a", Reply(stopped=True, remark="x"))
    failed = Turn("x" * 9, Reply(problem="too long", remark="x"))
    assert history([stopped, answered, failed, Turn("c")]) == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "c"},
    ]


def test_a_message_that_failed_is_not_met_again(model_queue, until):
    desk, parrot = model_queue(problem=ConfigError("too long"))
    parrot.at = 0
    chat = Chat(desk)
    chat.send("x" * 1000, BASE)
    until(lambda: not chat.feed.active)
    assert events(chat, "reply_ends")[0]["problem"] == "too long"
    parrot.problem = None
    chat.send("short", BASE)
    until(lambda: not chat.feed.active)
    assert parrot.asked[-1][0] == [{"role": "user", "content": "short"}]


def test_code_keeps_the_blanks_before_it(chat):
    chat.send("\n \n    code\n  more \n\n", BASE)
    chat.idle()
    assert texts(chat) == ["    code\n  more"]


def test_old_answers_lose_their_weights_and_keep_their_words(
    kept, monkeypatch, tmp_path
):
    monkeypatch.setattr(chatting, "MOST_DETAILED", 4)
    chat = kept()
    ask(chat, "one", "two", "three", run=tmp_path)
    first, *rest = [turn.reply for turn in chat._turns]
    assert (first.text, len(first.tokens)) == ("oneone", 1)
    assert [len(reply.tokens) for reply in rest] == [2, 2]
    assert "no longer kept" in events(chat, "reply_ends")[0]["note"]
    assert said(chat)[0] == "oneone"
    assert [len(t.text) for t in chat.trace().tokens if not t.prompt] == [6, 3, 3, 5, 5]


def test_a_conversation_has_an_end(chat, monkeypatch):
    monkeypatch.setattr(chatting, "MOST_TEXT", 10)
    ask(chat, "one")
    with pytest.raises(ConfigError, match="full: begin a new one"):
        chat.send("four", BASE)


def test_a_store_that_cannot_be_written_is_told_and_the_chat_goes_on(kept, tmp_path):
    (tmp_path / ".conversations").write_text("in the way")
    chat = kept()
    ask(chat, "one", "two")
    assert "cannot be kept" in chat.extras["notice"]
    assert len(chat.messages) == 4
    (tmp_path / ".conversations").unlink()
    ask(chat, "three")
    assert chat.extras["notice"] == ""
    assert texts(kept()) == ["one", "two", "three"]


def test_progress_is_told_while_the_model_reads():
    told = [Progress("loading", 1, 3), Progress("reading", 512, 1400)]
    assert [chatting.standing(one) for one in told] == [
        "Loading the experts",
        "Reading: 512 of 1,400 tokens",
    ]
