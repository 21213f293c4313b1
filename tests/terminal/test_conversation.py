"""What is saved is read again; nothing else is overwritten or taken for it."""

import json
import stat

import pytest

from comigs_mlx.data.splits import load_split
from comigs_mlx.errors import ConfigError
from comigs_mlx.terminal import conversation as module
from comigs_mlx.terminal.conversation import Conversation, load, save

ASKED = {"role": "user", "content": "Hi\n\x1b[31m \u009b ü 🙂"}
ANSWERED = {"role": "assistant", "content": ""}


@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("messages", [[], [ASKED], [ASKED, ANSWERED, ASKED]])
def test_is_read_as_it_was(tmp_path, system, messages):
    file = tmp_path / "talk.json"
    save(Conversation(system, messages), file, {"run": "here"})
    assert load(file) == Conversation(system, messages)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_file_is_chat_data_that_no_terminal_obeys(tmp_path):
    file = tmp_path / "talk.json"
    save(Conversation("Be kind.", [ASKED]), file, {"lean": None})
    text = file.read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert "\u009b" not in text
    assert "ü 🙂" in text
    system = {"role": "system", "content": "Be kind."}
    found = json.loads(text)
    assert found == {"format_version": 1, "messages": [system, ASKED], "lean": None}


def test_an_older_conversation_is_replaced_and_nothing_else(tmp_path):
    file, other = tmp_path / "talk.json", tmp_path / "thesis.json"
    save(Conversation(None, [ASKED]), file, {})
    save(Conversation(), file, {})
    assert load(file) == Conversation()
    other.write_text('{"chapters": []}')
    with pytest.raises(ConfigError, match="is there and is no conversation"):
        save(Conversation(), other, {})
    assert other.read_text() == '{"chapters": []}'


def test_a_failure_leaves_the_older_one(tmp_path, monkeypatch):
    file = tmp_path / "talk.json"
    save(Conversation(None, [ASKED]), file, {})
    monkeypatch.setattr(module, "_json", lambda content, indent: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(Conversation(), file, {})
    assert load(file) == Conversation(None, [ASKED])
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        ("[]", "it is no JSON object"),
        ("{", "damaged or incomplete"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "'messages' is missing"),
        ('{"messages": {}}', "its messages are no list"),
        ('{"messages": [], "format_version": 2}', "has format 2, not 1: update"),
        ('{"messages": [1]}', "a message has no role"),
        ('{"messages": [{"role": "user"}]}', "must be text, not NoneType"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "is broken"),
        ('{"messages": [{"role": "tool", "content": ""}]}', "neither the user's nor"),
    ],
)
def test_what_is_no_conversation_is_refused_in_one_line(tmp_path, content, text):
    file = tmp_path / "talk.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=text) as refused:
        load(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_taking_back():
    talk = Conversation(None, [ASKED, ANSWERED])
    assert talk.unanswer()
    assert talk.messages == [ASKED]
    assert talk.undo()
    assert talk.messages == []
    assert not talk.undo()
    assert not talk.unanswer()


def test_under_a_name_of_chat_data_it_is_chat_data(tmp_path):
    file = tmp_path / "talk.jsonl"
    answered = {"role": "assistant", "content": "Hello\n\nAnn"}
    save(Conversation("Be kind.", [ASKED, answered]), file, {"lean": None})
    system = {"role": "system", "content": "Be kind."}
    samples, kind = load_split(str(file), "all")
    assert (samples, kind) == ([{"messages": [system, ASKED, answered]}], "chat")
    assert load(file).messages == [ASKED, answered]
