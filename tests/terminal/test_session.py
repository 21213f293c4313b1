"""Messages are answered as the engine answers them; commands do what /help says."""

import json
import re
import signal
from dataclasses import replace

import numpy as np
import pytest

import tests.tiny as tiny
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.chat_engine import ChatEngine, Settings
from comigs_mlx.inference.trace import from_json, summary
from comigs_mlx.terminal import session
from comigs_mlx.terminal.conversation import Conversation, load
from comigs_mlx.terminal.entries import Entry
from comigs_mlx.terminal.screen import Screen
from comigs_mlx.terminal.session import BAR, HELP, Chat

DRAWN = Settings(temperature=1.0, top_p=1.0, seed=3, max_tokens=6)
END = tiny.VOCABULARY - len(tiny.SPECIALS)
ASKED = {"role": "user", "content": "Dear diary"}


@pytest.fixture(scope="module")
def engine(trained):
    made = ChatEngine()
    made.choose(trained(specialists=2, learning_rate=0.05))
    yield made
    made.close()


class Talk:
    """A chat with a fake terminal."""

    def __init__(self, engine, settings=DRAWN, system=None, **given):
        self.shown, self.said, self.lines = [], [], []
        screen = Screen(self.shown.append, self.said.append, system, system)
        asked = (engine, engine.info, settings, Conversation())
        self.chat = Chat(*asked, screen, self.ask, **given)

    def ask(self, prompt):
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    def run(self, *lines):
        self.shown.clear()
        self.said.clear()
        self.lines = list(lines)
        self.chat.run()
        return "".join(self.shown)

    @property
    def messages(self):
        return self.chat.conversation.messages


@pytest.fixture
def talk(engine):
    return Talk(engine)


@pytest.fixture
def reply(engine):
    """(messages, changes of the settings) -> the engine's own reply."""

    def say(messages, **changed):
        return list(engine.reply(messages, replace(DRAWN, **changed)))

    return say


def ids(tokens):
    return [token.id for token in tokens]


def text(tokens):
    return "".join(token.text for token in tokens)


class TestAnswers:
    def test_are_the_engine_s_and_remembered(self, talk, reply):
        expected = text(reply([ASKED]))
        shown = talk.run("Dear diary")
        assert shown.rstrip("\n") == re.sub(r"[\x00-\x1f\x7f-\x9f]", "", expected)
        assert talk.messages == [ASKED, {"role": "assistant", "content": expected}]
        more = {"role": "user", "content": "a\n/b"}
        talk.run('"""', "a", "/b", '"""')
        assert talk.messages[2] == more
        assert talk.messages[3]["content"] == text(reply([*talk.messages[:2], more]))

    def test_say_below_who_spoke(self, talk, reply, engine):
        talk.run("Dear diary")
        (line,) = [line for line in talk.said if line.startswith("[")]
        letters = re.match(r"\[(g*)(s*)\] ", line)
        assert len(letters[1] + letters[2]) == BAR
        rows = [row for token in reply([ASKED]) for row in token.weights]
        shared = sum(row[0] for row in rows) / len(rows)
        assert len(letters[1]) == pytest.approx(BAR * shared, abs=0.51)
        assert summary(talk.chat._traced()) in line
        assert "6 tokens; ended for its length (--max-tokens)" in line

    def test_are_coloured_where_the_terminal_can(self, engine, talk):
        coloured = Talk(engine, system="truecolor")
        shown = coloured.run("Dear diary")
        assert "\x1b[38;2;" in shown
        assert re.sub(r"\x1b\[[\d;]*m", "", shown) == talk.run("Dear diary")
        legend = coloured.said[1]
        assert "\x1b[38;2;0;114;178mgeneralist (everyone)\x1b[0m" in legend
        assert "\x1b[38;2;204;90;160mspecialist-1 (me)\x1b[0m" in legend

    def test_of_the_base_have_no_bar(self, engine):
        talk = Talk(engine, replace(DRAWN, selection="base"))
        talk.run("Dear diary")
        assert "the base model alone; 6 tokens" in talk.said[-2]

    def test_a_conversation_in_commands(self, talk):
        """The first line names model, run, experts and /help."""
        talk.run()
        info = talk.chat._info
        assert talk.said[0] == (
            f"{info.base_id}, run {info.run} at step {info.step}, experts auto; "
            "/help lists the commands"
        )


class TestCommands:
    def test_experts_speak_from_then_on(self, talk, reply):
        for who in ("specialist", "0.2,0.3,0.5"):
            talk.run("/reset", f"/experts {who}", "Dear diary")
            expected = reply([ASKED], selection=session.parse_experts(who))
            assert ids(talk.chat.tokens) == ids(expected) != ids(reply([ASKED]))
            assert f"experts {who}" in talk.said
        talk.run("/experts")
        now = "experts 0.2,0.3,0.5; or auto, base, generalist, specialist, or 3 weights"
        assert now in talk.said

    def test_a_lean_moves_the_router(self, talk, reply):
        talk.run("/lean -50", "Dear diary", "/lean")
        expected = reply([ASKED], lean=-50.0)
        assert ids(talk.chat.tokens) == ids(expected) != ids(reply([ASKED]))
        assert talk.said.count("lean -50") == 2
        talk.run("/experts base")
        assert "lean and prior are off: they move the router's choice" in talk.said
        assert talk.chat.settings.lean is None
        talk.run("/experts auto", "/lean 1", "/lean default")
        assert "lean what the run keeps, else 0" in talk.said

    def test_a_system_prompt_comes_first(self, talk, reply):
        talk.run("/system Be kind.", "Dear diary", "/system")
        first = talk.chat.tokens[0].weights
        (expected, *_), (plain, *_) = reply([ASKED], system="Be kind."), reply([ASKED])
        assert np.allclose(first, expected.weights, atol=1e-5)
        assert not np.allclose(first, plain.weights, atol=1e-2)
        assert talk.said.count("system prompt: Be kind.") == 2
        talk.run("/system none")
        assert talk.chat.conversation.system is None

    def test_retry_draws_anew_and_again_the_same(self, engine, reply):
        talk = Talk(engine, DRAWN)
        answers = []
        for lines in (["Dear diary"], ["/retry"], ["/retry"]):
            talk.run(*lines)
            assert talk.messages[0] == ASKED
            assert len(talk.messages) == 2
            answers.append(ids(talk.chat.tokens))
        assert answers == [ids(reply([ASKED], seed=3 + tries)) for tries in range(3)]
        assert answers[0] != answers[1] != answers[2]

    def test_undo_and_reset(self, talk):
        talk.run("one", "/undo")
        assert talk.messages == []
        assert "taken back; 0 messages are left" in talk.said
        talk.run("/system Be kind.", "one", "/reset")
        assert (talk.messages, talk.chat.tokens) == ([], [])
        assert talk.chat.conversation.system == "Be kind."

    def test_save(self, talk, tmp_path):
        file = tmp_path / "talk.json"
        talk.run("/system Be kind.", "Dear diary", "/lean -1.5", f"/save {file}")
        assert load(file) == talk.chat.conversation
        facts = json.loads(file.read_text(encoding="utf-8"))
        assert facts["run"] == talk.chat._info.run
        assert (facts["experts"], facts["lean"]) == ("auto", -1.5)

    def test_trace_is_of_the_last_answer(self, talk, reply, tmp_path):
        expected = reply([ASKED])
        page, file = tmp_path / "who.html", tmp_path / "who.json"
        talk.run("Dear diary", f"/trace {page}", f"/trace {file}")
        trace = from_json(json.loads(file.read_text()))
        assert [token.id for token in trace.tokens] == [token.id for token in expected]
        for token, one in zip(trace.tokens, expected, strict=True):
            rows = zip(token.weights, one.weights, strict=True)
            assert all(a == pytest.approx(b, abs=1e-5) for a, b in rows)
        assert summary(trace) in page.read_text()

    def test_help_names_every_command(self, talk):
        talk.run("/help")
        assert HELP in talk.said
        named = set(re.findall(r"^/(\w+)", HELP, re.MULTILINE))
        assert named == set(talk.chat._commands)

    def test_quit_ends_and_so_does_the_end_of_the_input(self, talk):
        talk.run("/quit", "never said")
        assert talk.messages == []
        assert talk.lines == ["never said"]

    def test_a_message_may_begin_with_a_slash(self, talk):
        talk.run("//etc")
        assert talk.messages[0]["content"] == "/etc"


class TestMistakes:
    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("/nonsense", "there is no command /nonsense: /help lists them"),
            ("/experts nobody", "unknown experts 'nobody': choose auto, base"),
            ("/experts 1,2", "expected 3 weights"),
            ("/experts 1,x", "expected auto, base"),
            ("/lean much", "/lean much: expected a number, or default"),
            ("/lean nan", "/lean nan must be from -50 to 50"),
            ("/retry", "there is nothing to answer yet"),
            ("/undo", "there is nothing to take back"),
            ("/save", "/save needs a file, such as /save talk.json"),
            ("/save /no/such/folder/x.json", "there is no folder /no/such/folder"),
            ("/save a\0b", "null"),
            ("/trace who.html", "there is no answer to trace"),
            ("x" * 300, "reads at most 128: shorten it"),
            ("a\udcff", "is not text in UTF-8"),
        ],
    )
    def test_are_told_in_one_line_and_nothing_changes(self, talk, line, problem):
        before = talk.chat.settings
        talk.run(line)
        (told,) = [said for said in talk.said if said.startswith("error: ")]
        assert problem in told
        assert "\n" not in told
        assert (talk.messages, talk.chat.settings) == ([], before)

    def test_end_it_where_a_program_asks(self, engine):
        talk = Talk(engine, patient=False)
        with pytest.raises(ConfigError, match="no command /x"):
            talk.run("/x", "never said")
        assert talk.messages == []

    def test_a_lean_where_no_router_chooses(self, talk):
        talk.run("/experts base", "/lean 1")
        assert talk.said[-2].startswith("error: /lean moves the router's choice")

    def test_a_trace_of_another_kind(self, talk, tmp_path):
        talk.run("Dear diary", f"/trace {tmp_path}/who.pdf")
        assert "give a file that ends in .html or .json" in talk.said[-2]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["talk.json", "page.html"])
    def test_a_trace_takes_no_other_files_place(self, talk, tmp_path, name):
        page = tmp_path / "page.html"
        page.write_text("<title>Mine</title>")
        talk.run("Dear diary", f"/save {tmp_path}/talk.json")
        before = (tmp_path / name).read_bytes()
        talk.run(f"/trace {tmp_path}/{name}")
        assert "there and is no trace: choose another name" in talk.said[-2]
        assert (tmp_path / name).read_bytes() == before

    def test_experts_that_the_run_does_not_have(self, engine):
        with pytest.raises(ConfigError, match="expected 3 weights"):
            Talk(engine, replace(DRAWN, selection=(0.5, 0.5)))


class TestCtrlC:
    def test_ends_the_answer_alone(self, engine):
        endless = replace(DRAWN, max_tokens=90, logit_bias={END: -1000.0})
        talk = Talk(engine, endless)
        show = talk.chat._screen._show

        def interrupted(piece):
            show(piece)
            if len(talk.shown) == 3:
                engine.submit(lambda e: None).result()  # it has said all by now
                signal.raise_signal(signal.SIGINT)

        talk.chat._screen._show = interrupted
        before = signal.getsignal(signal.SIGINT)
        talk.run("Dear diary", "/retry")
        assert signal.getsignal(signal.SIGINT) is before
        first, second = [line for line in talk.said if line.startswith("[")]
        assert first.endswith("; stopped")
        assert not second.endswith("; stopped")
        assert len(talk.chat.tokens) == 90
        assert int(re.search(r"(\d+) tokens", first)[1]) < 90

    def test_twice_gives_the_answer_up_and_goes_on(self, talk):
        def interrupted(piece):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        talk.chat._screen._show = interrupted
        talk.run("Dear diary", "/help")
        assert talk.messages == []
        assert "stopped" in talk.said
        assert HELP in talk.said

    def test_before_the_first_word_leaves_a_message_to_be_answered(self, engine):
        def pressed():
            signal.raise_signal(signal.SIGINT)
            return lambda done, total: None

        talk = Talk(engine, reading=pressed)
        talk.run("Dear diary")
        assert talk.messages == [ASKED]
        assert "no tokens; stopped" in talk.said
        talk.chat._reading = lambda: lambda done, total: None
        talk.run("/retry")
        assert [turn["role"] for turn in talk.messages] == ["user", "assistant"]

    def test_while_typing_drops_the_line(self, talk):
        talk.run("half\\", KeyboardInterrupt(), "Dear diary")
        assert talk.messages[0] == ASKED
        assert "\n/quit or Ctrl-D ends the conversation" in talk.said

    def test_ends_the_program_where_a_program_asks(self, engine):
        talk = Talk(engine, patient=False)
        talk.chat._screen._show = lambda piece: signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            talk.run("Dear diary")


def test_the_oldest_messages_are_said_to_be_left_out(engine):
    talk = Talk(engine)
    talk.run("x" * 60, "y" * 60)
    assert talk.said[-2].endswith("; without the 2 oldest messages, for length")


def test_a_block_is_never_a_command(talk):
    talk.chat.take(Entry("/quit", block=True))
    assert talk.messages[0]["content"] == "/quit"
