"""An open conversation on plain data: order, branches, stopping, what is told."""

import threading
from pathlib import Path

import pytest

from app import talk as talking
from app.chat_settings import ReplyOptions
from app.talk import Talk
from comigs_mlx.conversations.store import Store
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.replies import Progress

BASE = ReplyOptions(max_tokens=3)
NAME = "a" * 32


@pytest.fixture
def opened(model_queue, until, tmp_path):
    """(options of Parrot) -> an open conversation; `again` opens it once more."""

    def make(queue=None, name=NAME, **options):
        queue, parrot = queue or model_queue(**options)
        talk = Talk(queue, Store(tmp_path / "runs"), name)
        talk.parrot, talk.queue = parrot, queue
        talk.idle = lambda: until(lambda: not talk.active)
        talk.again = lambda: make((queue, parrot), name)
        return talk

    return make


def path(talk):
    return [(turn.role, turn.text) for turn in talk.conversation.path()]


def told(talk, since=0, epoch=None, tint=False):
    epoch = talk.changes(0, 0, False)["epoch"] if epoch is None else epoch
    return talk.changes(epoch, since, tint)


def ask(talk, *texts, **options):
    for text in texts:
        talk.send(text, ReplyOptions(**{"max_tokens": 2, **options}))
        talk.idle()


def last(talk):
    return talk.conversation.path()[-1]


def test_a_message_is_answered_and_told_by_its_blocks(opened, tmp_path):
    talk = opened()
    ask(talk, " one two ", run=tmp_path, max_tokens=3)
    user, answer = told(talk)["turns"]
    assert (user["text"], user["variants"][:2]) == (" one two", [1, 1])
    assert answer["blocks"] == [[0, '<p dir="auto">onetwo</p>']]
    assert (answer["title"], answer["run"]) == ("Together", tmp_path.name)
    assert (answer["tokens"], answer["share"]) == (3, 25)  # 0, 1/4, 1/2: a quarter
    assert answer["problem"] is None
    assert answer["can_continue"]  # it ended at the longest answer


def test_the_next_message_knows_what_was_said(opened):
    talk = opened()
    ask(talk, "one", "two", max_tokens=3)
    assert talk.parrot.asked[-1][0] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "oneoneone"},
        {"role": "user", "content": "two"},
    ]


def test_an_edit_is_a_branch_and_nothing_is_lost(opened):
    talk = opened()
    ask(talk, "one", "two")
    first = talk.conversation.path()[0].id
    talk.edit(first, "zero", BASE)
    talk.idle()
    assert path(talk) == [("user", "zero"), ("assistant", "zerozerozero")]
    assert talk.parrot.asked[-1][0] == [{"role": "user", "content": "zero"}]
    assert told(talk)["turns"][0]["variants"][:2] == [2, 2]
    talk.show(first)
    assert [text for _, text in path(talk)] == ["one", "oneone", "two", "twotwo"]
    assert [text for _, text in path(talk.again())][0] == "one"


def test_a_retry_is_a_variant_of_the_answer(opened):
    talk = opened()
    ask(talk, "one")
    first = last(talk).id
    talk.retry(first, BASE)
    talk.idle()
    assert talk.parrot.asked[0][0] == talk.parrot.asked[1][0]
    assert told(talk)["turns"][-1]["variants"] == [2, 2, [first, last(talk).id]]
    talk.show(first)
    assert last(talk).text == "oneone"


def test_a_page_is_told_only_what_it_lacks(opened):
    talk = opened()
    ask(talk, "one")
    before = told(talk)
    assert told(talk, before["version"])["turns"] == []
    ask(talk, "two")
    more = told(talk, before["version"])
    assert [turn["role"] for turn in more["turns"]] == ["user", "assistant"]
    assert more["path"] == [turn.id for turn in talk.conversation.path()]
    # a page that knows another process's version gets all
    assert len(told(talk, before["version"], epoch=before["epoch"] + 1)["turns"]) == 4


def test_a_growing_answer_sends_the_blocks_that_changed(opened):
    talk = opened()
    words = "one\n\n" * 5 + "end"
    ask(talk, words, max_tokens=1)
    turn = last(talk)
    before = told(talk)
    turn.text += " more"
    talk._touch(turn.id)
    (answer,) = told(talk, before["version"])["turns"]
    assert answer["blocks"] == [[5, '<p dir="auto">end more</p>']]
    assert answer["count"] == 6


def test_what_is_far_above_comes_when_it_is_seen(opened, monkeypatch):
    monkeypatch.setattr(talking, "AT_ONCE", 2)
    talk = opened()
    ask(talk, "one", "two")
    first = told(talk)["turns"][1]
    assert ("blocks" in first, first["later"]) == (False, len("oneone"))
    assert talk.whole(first["id"], False)["blocks"] == [[0, '<p dir="auto">oneone</p>']]


def test_who_spoke_is_told_of_each_piece(opened, tmp_path):
    talk = opened()
    ask(talk, "a b c", run=tmp_path, max_tokens=3)
    answer = told(talk, tint=True)["turns"][-1]
    # shares 0, 1/4, 1/2 of the specialist are leans -1, -1/2 and 0
    marks = [[0, 1, 0, -100], [1, 2, 1, -50], [2, 3, 2, 0]]
    assert answer["blocks"] == [[0, '<p dir="auto">abc</p>', marks]]
    found = talk.marks(answer["id"], 1)
    assert (found["marks"], len(found["layers"]), found["routed"]) == ([marks], 4, True)
    token = talk.token(answer["id"], 1)
    assert (token["text"], token["share"], token["position"]) == ("b", 0.25, [2, 3])
    assert token["layers"] == [[str(i), [0.75, 0.25]] for i in range(4)]
    assert token["alternatives"] == [["b", 0.5], ["<i>", 0.25]]
    with pytest.raises(ConfigError, match="no longer there"):
        talk.token(answer["id"], 3)


def test_an_answer_goes_on_where_it_ended(opened, tmp_path):
    talk = opened()
    ask(talk, "a b c", run=tmp_path, max_tokens=2)
    turn = last(talk)
    assert talk.speaker(turn.id) == (tmp_path.name, "auto", 0.0)
    talk.go_on(turn.id, ReplyOptions(run=tmp_path, max_tokens=2))
    talk.idle()
    begun = {"role": "assistant", "content": "ab", "prefix": True}
    assert talk.parrot.asked[-1][0] == [{"role": "user", "content": "a b c"}, begun]
    assert last(talk) is turn
    assert turn.answer.count == 4
    assert talk.token(turn.id, 3)["position"] == [4, 4]
    turn.answer.finish = "stop"
    with pytest.raises(ConfigError, match="is whole"):
        talk.go_on(turn.id, BASE)


def test_an_answer_whose_tokens_are_lost_is_shown_and_goes_on(opened, tmp_path):
    talk = opened()
    ask(talk, "a b c", run=tmp_path, max_tokens=2)
    (kept,) = (tmp_path / "runs").rglob("*.tokens.json")
    kept.write_text("no longer JSON")
    again = talk.again()
    answer = told(again, tint=True)["turns"][-1]
    assert answer["blocks"] == [[0, '<p dir="auto">ab</p>', []]]
    again.go_on(answer["id"], ReplyOptions(run=tmp_path, max_tokens=2))
    again.idle()
    assert last(again).text == "ababab"  # the parrot says the last message
    assert again.token(answer["id"], 1)["text"] == "ab"


def test_few_answers_keep_their_tokens_in_memory(opened, tmp_path):
    talk = opened()
    ask(talk, *"abcdefg", run=tmp_path)
    told(talk, tint=True)
    assert len(talk._tokens) == talking.LOOKED_AT


def test_stopping_keeps_what_was_said(opened, until):
    talk = opened(delay=0.01)
    talk.send("one", ReplyOptions(max_tokens=4000))
    until(lambda: len(last(talk).text) > 6)
    with pytest.raises(ConfigError, match="wait for it, or stop it"):
        talk.send("two", BASE)
    talk.stop()
    talk.idle()
    assert 2 < last(talk).answer.count < 4000
    assert told(talk)["turns"][-1]["remark"] == "stopped"


def test_an_error_ends_the_answer_and_is_told(opened):
    talk = opened(problem=RuntimeError("[malloc] Unable to allocate 1 bytes"))
    ask(talk, "a b c d", max_tokens=9)
    answer = told(talk)["turns"][-1]
    assert answer["problem"].startswith("There is not enough memory")
    assert last(talk).text == "ab"


def test_a_run_that_is_gone_is_told(opened, tmp_path):
    talk = opened()
    ask(talk, "one", run=tmp_path / "gone")
    assert told(talk)["turns"][-1]["problem"] == f"no run at {tmp_path / 'gone'}"


def test_a_message_that_failed_is_not_met_again(opened):
    talk = opened(problem=ConfigError("too long"))
    talk.parrot.at = 0
    ask(talk, "x" * 1000)
    assert told(talk)["turns"][-1]["problem"] == "too long"
    talk.parrot.problem = None
    ask(talk, "short")
    assert talk.parrot.asked[-1][0] == [{"role": "user", "content": "short"}]


def test_conversations_at_once_do_not_mix(opened, until):
    first = opened(delay=0.001)
    words = ("red", "green", "blue", "white")
    asked = ReplyOptions(max_tokens=20)
    talks = {
        word: opened((first.queue, first.parrot), f"{i:032x}")
        for i, word in enumerate(words)
    }
    threads = [
        threading.Thread(target=talk.send, args=(word, asked))
        for word, talk in talks.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: not any(talk.active for talk in talks.values()))
    assert {word: last(talk).text for word, talk in talks.items()} == {
        word: word * 20 for word in words
    }


def test_a_restart_loses_nothing(opened, tmp_path):
    talk = opened()
    ask(talk, "one", "two", run=tmp_path)
    talk.rate(last(talk).id, 1)
    again = talk.again()
    assert again.conversation.as_json() == talk.conversation.as_json()
    ours, theirs = told(talk, tint=True), told(again, tint=True)
    assert (ours["turns"], ours["title"]) == (theirs["turns"], theirs["title"])
    assert again.token(last(again).id, 1) == talk.token(last(talk).id, 1)
    assert told(again)["turns"][-1]["rating"] == 1


def test_an_answer_cut_off_by_the_apps_end_is_kept_as_far_as_it_came(opened, until):
    talk = opened(delay=0.01)
    talk._next_save = 0.0
    talk.send("one", ReplyOptions(max_tokens=4000))
    until(lambda: len(last(talk).text) > 6)
    killed = talk.again()
    assert told(killed)["turns"][-1]["remark"] == "stopped · the app ended"
    talk.close()
    talk.idle()
    again = talk.again()
    assert len(last(again).text) > 6
    assert not again.active
    assert told(again)["turns"][-1]["can_continue"]


def test_a_title_of_ones_own_stays(opened):
    talk = opened()
    ask(talk, "one")
    assert told(talk)["title"] == "one"
    talk.rename("  My  plan ")
    ask(talk, "two")
    assert told(talk.again())["title"] == "My plan"


@pytest.mark.parametrize("turn", [99, "1", None, True])
def test_turns_that_are_not_there(opened, turn):
    talk = opened()
    for act in (talk.retry, lambda t, o: talk.edit(t, "x", o), talk.go_on):
        with pytest.raises(ConfigError, match="no longer there"):
            act(turn, BASE)
    with pytest.raises(ConfigError, match="no longer there"):
        talk.rate(turn, 1)


def test_a_full_context_is_asked_about_before_anything_is_left_out(opened):
    talk = opened(context=3)
    ask(talk, "one", "two")
    assert told(talk)["waiting"] is None
    ask(talk, "three")
    waiting = told(talk)["waiting"]
    assert waiting == {"turn": last(talk).id, "count": 2, "last": "one"}
    assert len(talk.parrot.asked) == 2  # nobody has spoken
    answer = told(talk)["turns"][-1]
    assert (answer["waits"], answer["remark"], answer["problem"]) == (True, "", None)
    again = talk.again()  # it is asked after a restart, too
    assert told(again)["waiting"] == waiting
    again.leave_out(waiting["turn"], BASE)
    again.idle()
    assert last(again).id == waiting["turn"]
    assert last(again).text == "threethreethree"
    assert told(again)["waiting"] is None


def test_it_is_asked_once_a_conversation_whether_turns_may_be_left_out(opened):
    talk = opened(context=1)
    ask(talk, "one", "two")
    talk.leave_out(last(talk).id, BASE)
    talk.idle()
    ask(talk, "three")
    assert last(talk).text == "threethree"
    ask(again := talk.again(), "four")
    assert last(again).text == "fourfour"
    other = opened((talk.queue, talk.parrot), "b" * 32)
    ask(other, "one", "two")
    assert told(other)["waiting"]["count"] == 2


def test_what_waits_can_be_passed_over_or_asked_in_other_words(opened):
    talk = opened(context=1)
    ask(talk, "one", "two")
    question = talk.conversation.path()[-2].id
    ask(talk, "three")
    assert told(talk)["waiting"]["count"] == 2
    talk.parrot.context = None
    ask(talk, "four")
    said = [message["content"] for message in talk.parrot.asked[-1][0]]
    assert said == ["one", "oneone", "two\n\nthree\n\nfour"]
    assert told(talk)["waiting"] is None
    talk.edit(question, "two", BASE)
    talk.idle()
    assert last(talk).text == "twotwotwo"


def test_an_answer_that_is_to_go_on_can_be_too_long_as_well(opened, tmp_path):
    talk = opened()
    ask(talk, "a b c", "d e f", run=tmp_path, max_tokens=2)
    talk.parrot.context = 2
    options = ReplyOptions(run=tmp_path, max_tokens=2)
    talk.go_on(last(talk).id, options)
    talk.idle()
    assert (last(talk).text, told(talk)["waiting"]["count"]) == ("de", 2)
    talk.leave_out(last(talk).id, options)
    talk.idle()
    assert last(talk).text.startswith("de")
    assert last(talk).answer.count == 4


def test_nothing_is_left_out_of_an_answer_that_does_not_wait(opened):
    talk = opened()
    ask(talk, "one")
    with pytest.raises(ConfigError, match="Nothing needs to be left out"):
        talk.leave_out(last(talk).id, BASE)


def test_nothing_can_be_saved_before_a_word(opened):
    with pytest.raises(ConfigError, match="nothing to save yet"):
        opened().as_file("html")


@pytest.mark.parametrize(
    ("text", "message"),
    [("  ", "Write something first"), (None, "Write"), ("x" * 200_001, "longer than")],
)
def test_messages_that_cannot_be_answered(opened, text, message):
    talk = opened()
    with pytest.raises(ConfigError, match=message):
        talk.send(text, BASE)
    assert path(talk) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"experts": "all"}, "experts must be one of"),
        ({"temperature": 3.0}, "temperature 3.0 must be from 0 to 2"),
        ({"top_p": 0.0}, "top-p"),
        ({"max_tokens": 0}, "max tokens"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"lean": 1.0}, "leans to nobody: choose a model of yours"),
        ({"experts": "specialist"}, "“Only me” needs a model of yours"),
        ({"run": Path("x"), "lean": 4.5}, "lean 4.5 must be from -4 to 4"),
        ({"run": Path("x"), "lean": float("nan")}, "lean nan must be from -4 to 4"),
    ],
)
def test_values_that_no_widget_gives(opened, values, message):
    with pytest.raises(ConfigError, match=message):
        opened().send("one", ReplyOptions(**values))


@pytest.mark.parametrize(("experts", "lean"), [("auto", -1.5), ("generalist", None)])
def test_the_lean_is_that_of_the_mixture(experts, lean):
    asked = ReplyOptions(run=Path("x"), experts=experts, lean=-1.5)
    settings = asked.settings(["generalist", "specialist"])
    assert settings.lean == lean
    settings.check()


def test_the_model_gets_the_settings(opened, tmp_path):
    talk = opened()
    ask(talk, "one", run=tmp_path, lean=2.0, system=" Be kind ", max_tokens=1)
    _, settings = talk.parrot.asked[0]
    assert (settings.selection, settings.lean) == ("auto", 2.0)
    assert settings.system == "Be kind"
    ask(talk, "two", max_tokens=1)
    assert talk.parrot.asked[1][1].selection == "base"
    assert told(talk)["turns"][-1]["title"] == "Untrained"


def test_reading_is_told_in_percent(opened):
    talk = opened()
    for progress, text in (
        (Progress("loading", 1, 3), "Loading the experts"),
        (Progress("reading", 560, 1400), "Reading 40 %"),
    ):
        talk._progress(progress)
        status = told(talk)["status"]
        assert (status["text"], status["done"]) == (text, progress.done)


def test_a_store_that_cannot_be_written_is_told_and_the_talk_goes_on(opened, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    talk = opened()
    ask(talk, "one", "two")
    assert "cannot be kept" in told(talk)["notice"]
    assert len(path(talk)) == 4
