"""Conversations to tokens."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import SPMStreamingDetokenizer, TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from comigs_mlx.errors import ConfigError, ModelError
from comigs_mlx.inference.prompts import (
    alternating,
    chat_tokens,
    check_text,
    fitting,
    own_text,
    prompt_tokens,
    room,
    segments,
)
from comigs_mlx.model.base import load_base

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Who?"},
]


@pytest.fixture
def tokenizer(tiny_folder):
    return load_tokenizer(tiny_folder())


@pytest.fixture
def plain(tokenizer):
    """Of a base model: no chat template."""
    tokenizer.has_chat_template = False
    return tokenizer


def test_a_conversation_ends_where_the_assistant_begins(tokenizer):
    tokens = chat_tokens(tokenizer, TURNS, "Be kind.")
    assert tokenizer.decode(tokens) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_one_question_is_a_conversation_of_one_turn(tokenizer):
    assert prompt_tokens(tokenizer, "Hi", "x") == chat_tokens(tokenizer, TURNS[:1], "x")


def test_turns_are_left_as_they_were(tokenizer):
    before = [dict(turn) for turn in TURNS]
    chat_tokens(tokenizer, TURNS, "Be kind.")
    assert before == TURNS


def test_without_a_template_the_text_is_continued(plain):
    assert plain.decode(chat_tokens(plain, TURNS)) == "Hi\n\nHello\n\nWho?"
    with pytest.raises(ConfigError, match="a system prompt needs the model's chat"):
        chat_tokens(plain, TURNS, "Be kind.")


def test_an_answer_that_was_begun_is_gone_on_with(tokenizer):
    begun = {"role": "assistant", "content": " Hel", "prefix": True}
    asked = chat_tokens(tokenizer, TURNS, "Be kind.")
    told = chat_tokens(tokenizer, [*TURNS, begun], "Be kind.")
    assert told[: len(asked)] == asked
    assert tokenizer.decode(told[len(asked) :]) == " Hel"


def test_without_a_template_what_was_begun_ends_the_text(plain):
    begun = {"role": "assistant", "content": "I am", "prefix": True}
    told = plain.decode(chat_tokens(plain, [*TURNS, begun]))
    assert told == "Hi\n\nHello\n\nWho?\n\nI am"


def test_a_template_that_refuses(tokenizer):
    tokenizer._tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ConfigError) as error:
        chat_tokens(tokenizer, TURNS)
    assert "refuses this conversation (roles must alternate): clear it" in str(
        error.value
    )


def test_segments_are_the_text_whatever_is_divided(tokenizer):
    text = "naïve 🐦 end é"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    found = list(segments(tokenizer, tokens))
    assert len(found) == len(tokens)
    assert "".join(found) == text


STRICT = (
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}{% endfor %}"
)
"""Of the kind that Gemma and Mistral have."""


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_a_turn_without_an_answer_does_not_end_the_conversation(tokenizer):
    tokenizer._tokenizer.chat_template = STRICT
    said = [user("a"), user("b"), assistant("c"), user("d"), assistant(""), user("e")]
    tokens = chat_tokens(tokenizer, said)
    assert tokenizer.decode(tokens) == "[user] a\n\nb[assistant] c[user] d\n\ne"


TURN = st.builds(
    lambda role, text: {"role": role, "content": text},
    st.sampled_from(["user", "assistant"]),
    st.sampled_from(["", "a", "b\n", " "]),
)


@given(st.lists(TURN))
def test_any_conversation_alternates_and_keeps_every_character(messages):
    turns = alternating(messages)
    roles = [turn["role"] for turn in turns]
    assert all(a != b for a, b in zip(roles, roles[1:], strict=False))
    assert all(turn["content"] for turn in turns)
    for role in ("user", "assistant"):
        before = [m["content"] for m in messages if m["role"] == role and m["content"]]
        after = [turn["content"] for turn in turns if turn["role"] == role]
        assert "".join(before) == "".join(after).replace("\n\n", "")


def test_messages_that_call_tools_stay_whole_and_alone():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}
    result = {"role": "tool", "content": "rain"}
    turns = [user("a"), call, call, result, assistant("b"), assistant("c")]
    assert alternating(turns) == [*turns[:4], assistant("b\n\nc")]
    assert alternating([call, assistant("b")]) == [call, assistant("b")]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "x"}, "needs a role"),
        ({"role": "user"}, "must be text, not NoneType"),
        ({"role": "user", "content": ["x"]}, "must be text, not list"),
        (user("half \ud83d of an emoji"), "its character 6 is broken"),
    ],
)
def test_messages_that_are_none(tokenizer, message, text):
    with pytest.raises(ConfigError, match=text):
        chat_tokens(tokenizer, [message])


def test_text_that_is_not_utf_8_is_refused_wherever_it_stands(tokenizer):
    broken = b"caf\xe9".decode("utf-8", "surrogateescape")
    for ask in (
        lambda: check_text(broken, "the text"),
        lambda: prompt_tokens(tokenizer, broken),
        lambda: prompt_tokens(tokenizer, broken, template=False),
        lambda: prompt_tokens(tokenizer, "x", broken),
    ):
        with pytest.raises(ConfigError, match="is not text in UTF-8: its character 4"):
            ask()


@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_blank_prompts(tokenizer, blank):
    for template in (True, False):
        with pytest.raises(ConfigError, match="the prompt is empty"):
            prompt_tokens(tokenizer, blank, template=template)
    with pytest.raises(ConfigError, match="the conversation is empty"):
        chat_tokens(tokenizer, [user(blank)])


def test_a_refusal_speaks_of_a_system_prompt_only_where_there_is_one(tokenizer):
    tokenizer._tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ConfigError, match=r"\(no\): clear it, or choose another base"):
        chat_tokens(tokenizer, [user("x")])
    with pytest.raises(ConfigError, match="clear it, or leave out the system prompt"):
        chat_tokens(tokenizer, [user("x")], "Be kind.")


@pytest.fixture(scope="module")
def base(tiny_folder):
    return load_base(str(tiny_folder()))


class TestFitting:
    """The tiny base reads 128 tokens; a token is a byte."""

    def long(self, turns, length):
        return [
            (assistant if i % 2 else user)(chr(97 + i) * length) for i in range(turns)
        ]

    def test_all_of_it_where_there_is_room(self, base):
        said = self.long(3, 10)
        tokens, left_out = fitting(base, said, None, 4)
        assert (tokens, left_out) == (chat_tokens(base.tokenizer, said), 0)

    @pytest.mark.parametrize("turns", [5, 7, 9, 15])
    @pytest.mark.parametrize("length", [3, 10, 25, 60])
    @pytest.mark.parametrize("system", [None, "Be kind."])
    def test_leaves_out_no_more_than_it_must(self, base, turns, length, system):
        said = self.long(turns, length)
        tokens, left_out = fitting(base, said, system, 20)
        assert tokens == chat_tokens(base.tokenizer, said[left_out:], system)
        assert left_out % 2 == 0  # what is left begins with the user
        longest = base.context - 20
        assert len(tokens) <= longest or left_out == turns - 1
        if left_out:
            more = chat_tokens(base.tokenizer, said[left_out - 2 :], system)
            assert len(more) > longest

    def test_room_for_the_answer_is_at_most_a_quarter(self, base):
        said = self.long(9, 10)
        few, _ = fitting(base, said, None, 10_000)
        more, _ = fitting(base, said, None, base.context // 4)
        assert few == more
        assert room(base, few) >= base.context // 4

    def test_one_turn_of_a_pair_that_was_never_answered_goes_alone(self, base):
        """What failed because it is too long must not stand in the way for ever."""
        said = [user("x" * 500), user("short")]
        tokens, left_out = fitting(base, said, None, 8)
        assert left_out == 1
        assert tokens == chat_tokens(base.tokenizer, said[1:])

    def test_one_message_too_long_alone_is_refused(self, base):
        said = [*self.long(4, 5), user("x" * 500)]
        tokens, left_out = fitting(base, said, None, 8)
        assert left_out == 4
        with pytest.raises(ConfigError, match="tokens long, .* reads at most 128"):
            room(base, tokens)

    def test_room_is_what_is_left(self, base):
        assert room(base, [1] * 127) == 1
        with pytest.raises(ConfigError, match=r"is 128 tokens long, .*: shorten it"):
            room(base, [1] * 128)
        with pytest.raises(ConfigError, match="the prompt is empty"):
            room(base, [])

    def test_tokens_the_base_does_not_know(self, base):
        with pytest.raises(ModelError, match="the prompt has token id 9999"):
            room(base, [1, 9999])


def test_long_text_is_read_without_foreign_warnings(tokenizer, caplog, monkeypatch):
    """What is too long is refused by us, in one line; transformers warns before."""
    tokenizer._tokenizer.model_max_length = 5
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        prompt_tokens(tokenizer, "long enough")
        prompt_tokens(tokenizer, "long enough", template=False)
    assert caplog.records == []
    tokenizer._tokenizer.deprecation_warnings.clear()  # it warns once
    tokenizer.encode("long enough")
    assert "longer than the specified maximum" in caplog.text


class TestOwnText:
    """A token is bytes."""

    def test_parts_of_characters_are_shown_as_bytes(self, tokenizer):
        tokens = tokenizer.encode("é🌟", add_special_tokens=False)
        shown = [own_text(tokenizer, token) for token in tokens]
        assert shown == ["<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x8C>", "<0x9F>"]

    def test_of_every_single_byte(self, tokenizer):
        """Whatever is shown says which byte it is."""
        vocabulary = tokenizer.get_vocab()
        shown = {own_text(tokenizer, vocabulary[letter]) for letter in alphabet()}
        plain = {chr(byte) for byte in range(128)}
        assert shown == plain | {f"<0x{byte:02X}>" for byte in range(128, 256)}

    def test_whole_characters_and_parts_in_one_token(self):
        tokenizer = byte_level([" é".encode() + b"\xf0\x9f", "\ufffd".encode()])
        assert own_text(tokenizer, 256) == " é<0xF0><0x9F>"
        assert own_text(tokenizer, 257) == "\ufffd"  # the very character

    def test_special_tokens_are_their_names(self, tokenizer):
        assert own_text(tokenizer, tokenizer.eos_token_id) == "<|endoftext|>"

    def test_sentencepiece_keeps_its_spaces_and_bytes(self):
        pieces = {"<0xF0>": 0, "\u2581Paris": 1, "Paris": 2, "\u2581": 3, "<unk>": 4}
        tokenizer = sentencepiece(pieces)
        shown = [own_text(tokenizer, token) for token in range(4)]
        assert shown == ["<0xF0>", " Paris", "Paris", " "]


def alphabet():
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(extra):
    """A byte-level tokenizer with some more tokens, given as bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = alphabet()
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    of_byte = {}
    for letter in letters:
        raw = decoders.ByteLevel().decode([letter]).encode()
        if raw != "\ufffd".encode():
            of_byte[raw[0]] = letter
    for character in ("é", "🌟", "\ufffd"):
        letters_of = split.pre_tokenize_str(character)[0][0]
        of_byte |= dict(zip(character.encode(), letters_of, strict=True))
    for raw in extra:
        vocabulary["".join(of_byte[byte] for byte in raw)] = len(vocabulary)
    made = Tokenizer(models.BPE(vocabulary, []))
    made.decoder = decoders.ByteLevel()
    return TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=made))


def sentencepiece(pieces):
    """A tokenizer with a Llama 2's decoder."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback()]
    steps += [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    return TokenizerWrapper(tokenizer, SPMStreamingDetokenizer)
