from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from comigs_mlx.data.batches import training_batches
from comigs_mlx.data.content import naming_split, tokenised
from comigs_mlx.data.encoding import CHUNK
from comigs_mlx.data.splits import Placed
from comigs_mlx.data.tokens import cut, labelled_samples, token_stream
from comigs_mlx.errors import DataError
from tests.data.conftest import CHATML, END, TEMPLATES

Make = Callable[[str], Any]

TURNS = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Me."},
    {"role": "user", "content": "Où?"},
    {"role": "assistant", "content": "Here."},
]
PAIR = {"prompt": "Who?", "completion": "Me."}


def cut_samples(samples: Any, tokenizer: Any, mask_prompt: bool, seq_len: int) -> Any:
    return cut(labelled_samples(samples, tokenizer, mask_prompt), seq_len)


def targets(sample: dict[str, Any], tokenizer: Any, seq_len: int = 1000) -> list[str]:
    """The runs of labelled tokens, as text."""
    ((one,), _) = cut_samples([sample], tokenizer, True, seq_len)
    edges = np.flatnonzero(np.diff(one.labelled.astype(int), prepend=0, append=0))
    return [
        tokenizer.decode(one.tokens[a:b].tolist(), skip_special_tokens=False)
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def test_stream_ends_documents_and_remembers_them(bytes_tokenizer: Any) -> None:
    stream = token_stream(
        [{"text": "ab"}, {"text": ""}, {"text": "é"}], bytes_tokenizer
    )
    assert stream.tokens.tolist() == [97, 98, 256, 256, 0xC3, 0xA9, 256]
    assert stream.documents.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert stream.tokens.dtype == stream.documents.dtype == np.int32


def test_stream_of_a_real_tokenizer_decodes_to_the_text(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    stream = token_stream([{"text": "Où?\n  x"}, {"text": "b"}], tokenizer)
    text = tokenizer.decode(stream.tokens.tolist(), skip_special_tokens=False)
    assert text == "Où?\n  x<|endoftext|>b<|endoftext|>"


def test_stream_of_nothing_is_empty(bytes_tokenizer: Any) -> None:
    assert token_stream([], bytes_tokenizer).tokens.shape == (0,)


def test_stream_needs_an_end_token(bytes_tokenizer: Any) -> None:
    bytes_tokenizer.eos_token_id = None
    with pytest.raises(DataError, match="no EOS token: choose another model"):
        token_stream([{"text": "a"}], bytes_tokenizer)


@pytest.mark.parametrize("template", ["chatml", "default_system"])
def test_mask_holds_what_the_assistant_says(
    template: str, chat_tokenizer: Make
) -> None:
    tokenizer = chat_tokenizer(template)
    expected = ["Me.<|im_end|>\n", "Here.<|im_end|>\n"]
    assert targets({"messages": TURNS}, tokenizer) == expected
    assert targets(PAIR, tokenizer) == expected[:1]


def test_turns_that_the_template_rewrites_are_not_labelled(
    chat_tokenizer: Make,
) -> None:
    tokenizer = chat_tokenizer("rewriting")
    expected = ["<think>\n\n</think>\n\nHere.<|im_end|>\n"]
    assert targets({"messages": TURNS}, tokenizer) == expected
    _, notes = cut_samples([{"messages": TURNS}], tokenizer, True, 1000)
    assert notes == [
        "not trained on 1 assistant turns that the chat template rewrites later in the "
        "conversation"
    ]


def test_marks_of_the_template_win_over_counting(chat_tokenizer: Make) -> None:
    # The line end after <|im_end|> is outside the template's marks.
    expected = ["Me.<|im_end|>", "Here.<|im_end|>"]
    assert targets({"messages": TURNS}, chat_tokenizer("marking")) == expected


def test_unusable_marks_fall_back_to_the_proof(
    chat_tokenizer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = chat_tokenizer("marking")
    stock = type(tokenizer._tokenizer).apply_chat_template

    def other_tokens(self: Any, *args: Any, **options: Any) -> Any:
        found = stock(self, *args, **options)
        if options.get("return_dict"):
            found["input_ids"] = found["input_ids"][1:]
        return found

    monkeypatch.setattr(type(tokenizer._tokenizer), "apply_chat_template", other_tokens)
    expected = ["Me.<|im_end|>\n", "Here.<|im_end|>\n"]
    assert targets({"messages": TURNS}, tokenizer) == expected


def repr_of(text: str) -> str:
    """An expression of a template; it would trim a line end after a mark."""
    return "{{ " + repr(text) + " }}"


def test_marks_that_leave_out_the_end_token_are_carried_on_to_it(
    chat_tokenizer: Make,
) -> None:
    tokenizer = chat_tokenizer("marking")
    for between in (END, f"\n\n{END}"):
        tokenizer.chat_template = TEMPLATES["marking"].replace(
            END + "{% endgeneration %}", "{% endgeneration %}" + repr_of(between)
        )
        expected = ["Me." + between, "Here." + between]
        assert targets({"messages": TURNS}, tokenizer) == expected


def test_marks_are_carried_on_also_in_turns_that_the_template_rewrites(
    chat_tokenizer: Make,
) -> None:
    tokenizer = chat_tokenizer("marking")
    written = "{{ m.content if loop.last else m.content | upper }}"
    tokenizer.chat_template = (
        TEMPLATES["marking"]
        .replace("{{ m.content }}" + END, written + END)
        .replace(END + "{% endgeneration %}", "{% endgeneration %}" + repr_of(END))
    )
    assert targets({"messages": TURNS}, tokenizer) == [f"ME.{END}", f"Here.{END}"]


def test_marks_without_any_end_token_are_told(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("marking")
    tokenizer.chat_template = TEMPLATES["marking"].replace(
        END + "{% endgeneration %}", "{% endgeneration %}"
    )
    _, notes = cut_samples([{"messages": TURNS}], tokenizer, True, 1000)
    assert notes == [
        "2 assistant turns have no end token in the chat template: the model does not "
        "learn from them when to stop"
    ]


def test_marks_win_where_the_wrapper_switches_thinking_on(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("marking")
    tokenizer.chat_template = (
        "{% if enable_thinking %}think{% endif %}" + tokenizer.chat_template
    )
    tokenizer._think_start = "<think>"
    expected = ["Me.<|im_end|>", "Here.<|im_end|>"]
    assert targets({"messages": TURNS}, tokenizer) == expected


def test_an_assistant_who_speaks_first_is_labelled(chat_tokenizer: Make) -> None:
    expected = ["Me.<|im_end|>\n", "Here.<|im_end|>\n"]
    for template in ("chatml", "default_system"):
        tokenizer = chat_tokenizer(template)
        assert targets({"messages": TURNS[1:]}, tokenizer) == expected


def test_only_the_assistant_is_learned(chat_tokenizer: Make) -> None:
    """Not what a system, a tool, a user or anyone else says."""
    roles = ["system", "user", "assistant", "tool", "assistant", "user"]
    messages = [{"role": r, "content": f"{r} {i}"} for i, r in enumerate(roles)]
    tokenizer = chat_tokenizer("chatml")
    expected = ["assistant 2<|im_end|>\n", "assistant 4<|im_end|>\n"]
    assert targets({"messages": messages}, tokenizer) == expected


def test_thinking_that_stays_is_learned_with_the_answer(chat_tokenizer: Make) -> None:
    """The prompt opens the thinking block, and the history keeps the last one."""
    tokenizer = chat_tokenizer("rewriting")
    tokenizer.chat_template = (
        TEMPLATES["rewriting"]
        .replace("<think>\n\n</think>\n\n", "<think>\n{{ m.thought }}</think>\n\n")
        .replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    )
    messages = [TURNS[0], {**TURNS[1], "thought": "Who? Me!"}]
    expected = ["Who? Me!</think>\n\nMe.<|im_end|>\n"]
    assert targets({"messages": messages}, tokenizer) == expected


def test_what_prompt_and_rendering_share_is_given(chat_tokenizer: Make) -> None:
    """The prompt opens a thinking block, which the rendering closes at once."""
    tokenizer = chat_tokenizer("rewriting")
    tokenizer.chat_template = (
        TEMPLATES["rewriting"]
        .replace("<think>\n\n</think>", "<think></think>")
        .replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    )
    expected = ["</think>\n\nMe.<|im_end|>\n"]
    assert targets({"messages": TURNS[:2]}, tokenizer) == expected


def test_a_turn_is_found_where_what_comes_before_it_moves(chat_tokenizer: Make) -> None:
    """Mistral's: the tools stand before the last question, wherever that is."""
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% set asked = messages|selectattr('role', 'equalto', 'user')|list %}"
        "{% for m in messages %}{% if m.role == 'user' %}"
        "{% if m == asked[-1] %}TOOLS{% endif %}[INST] {{ m.content }} [/INST]"
        "{% elif m.tool_calls %}[CALLS] {{ m.tool_calls[0].name }}" + END + ""
        "{% else %} {{ m.content }}" + END + "{% endif %}{% endfor %}"
    )
    calls = [{"name": "look"}, {"name": "up"}]
    messages = [
        *TURNS[:2],
        TURNS[2],
        {"role": "assistant", "content": None, "tool_calls": calls},
        *TURNS[2:],
    ]
    expected = [" Me.<|im_end|>", "[CALLS] look<|im_end|>", " Here.<|im_end|>"]
    assert targets({"messages": messages}, tokenizer) == expected


def test_a_template_that_refuses_a_part_is_asked_for_the_whole(
    chat_tokenizer: Make,
) -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% if messages[-1].role == 'assistant' and messages|length < 4 %}"
        "{{ raise_exception('a call without its result') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.eos_token = END
    expected = ["Me.<|im_end|>", "Here.<|im_end|>\n"]
    assert targets({"messages": TURNS}, tokenizer) == expected


def test_turns_that_are_not_found_are_told(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages|reverse %}{{ m.role }}: "
        "{{ 'x' if m.role == 'assistant' else m.content }}\n{% endfor %}"
    )
    with pytest.raises(DataError) as error:
        cut_samples([{"messages": TURNS}], tokenizer, True, 1000)
    assert str(error.value) == (
        "none of 1 samples has a target (not trained on 2 assistant turns that were "
        "not found in what the chat template makes of the conversation): leave out "
        "--mask-prompt or change the conversations"
    )


def test_the_true_reason_is_given_where_nothing_can_be_learned(
    chat_tokenizer: Make,
) -> None:
    nobody = {"messages": [TURNS[0]]}
    with pytest.raises(DataError) as error:
        cut_samples([nobody], chat_tokenizer("chatml"), True, 1000)
    assert str(error.value) == (
        "none of 1 samples has a target (there is no turn of the role assistant): "
        "leave out --mask-prompt or change the conversations"
    )
    rewritten = {"messages": TURNS[:3]}
    with pytest.raises(DataError) as error:
        cut_samples([rewritten], chat_tokenizer("rewriting"), True, 1000)
    assert "1 assistant turns that the chat template rewrites" in str(error.value)
    assert "--seq-len" not in str(error.value)
    kept, notes = cut_samples([nobody, PAIR], chat_tokenizer("chatml"), True, 1000)
    assert len(kept) == 1
    assert notes == ["dropped 1 of 2 samples without an assistant turn to learn from"]


CALL = {"name": "weather", "arguments": {"city": "Bonn", "days": [1, None]}}
WANTED = '{"city": "Bonn", "days": [1, null]}'
CALLING = (
    "{% for m in messages %}{{ m.content or '' }}"
    "{% for c in m.tool_calls %}%s{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("given", [CALL["arguments"], WANTED])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    "prints",
    [
        "{{ f.arguments | tojson }}",
        "{{ f.arguments }}",
        "{{ '' + f.arguments }}",
        "{% if f.arguments is string %}{{ f.arguments }}{% else %}"
        "{{ f.arguments | tojson }}{% endif %}",
        "{% for k, v in f.arguments.items() %}{{ '{' if loop.first else ', ' }}"
        '"{{ k }}": {{ v | tojson }}{% endfor %}}',
    ],
)
def test_arguments_are_learned_as_json_once(
    prints: str, nested: bool, given: Any, chat_tokenizer: Make
) -> None:
    """Whether the row or the template has them as an object or as JSON in a string."""
    tokenizer = chat_tokenizer("chatml")
    name = "c.function" if nested else "c"
    tokenizer.chat_template = CALLING.replace("%s", prints.replace("f.", f"{name}."))
    call: dict[str, Any] = {**CALL, "arguments": given}
    calls = [{"type": "function", "function": call} if nested else call]
    messages = [TURNS[0], {"role": "assistant", "content": None, "tool_calls": calls}]
    (one,) = labelled_samples([{"messages": messages}], tokenizer, False).samples
    assert tokenizer.decode(one.tokens.tolist()) == "Who?" + WANTED
    assert calls[0].get("function", calls[0])["arguments"] == given  # not changed


@pytest.mark.parametrize("given", ["no JSON", "[1]", '{"a": '])
def test_arguments_that_are_no_object_stay(given: str, chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = CALLING.replace("%s", "{{ c.arguments }}")
    calls = [{"name": "f", "arguments": given}]
    messages = [TURNS[0], {"role": "assistant", "content": None, "tool_calls": calls}]
    (one,) = labelled_samples([{"messages": messages}], tokenizer, False).samples
    assert tokenizer.decode(one.tokens.tolist()) == "Who?" + given


def test_without_mask_all_but_the_first_token_is_a_target(
    chat_tokenizer: Make, bytes_tokenizer: Any
) -> None:
    (one, two), notes = cut_samples(
        [PAIR, {"messages": TURNS[:2]}], chat_tokenizer("chatml"), False, 1000
    )
    assert one.tokens.tolist() == two.tokens.tolist()
    assert one.labelled.tolist() == [False] + [True] * (len(one.tokens) - 1)
    assert notes == []
    ((text,), _) = cut_samples([{"text": "ab"}], bytes_tokenizer, False, 9)
    assert text.tokens.tolist() == [97, 98, 256]
    assert text.labelled.tolist() == [False, True, True]


def test_tools_reach_the_template(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = "{{ tools[0].function.name }}" + tokenizer.chat_template
    tools = [{"type": "function", "function": {"name": "search"}}]
    sample = {"messages": TURNS[:2], "tools": tools}
    ((one,), _) = cut_samples([sample], tokenizer, True, 1000)
    assert tokenizer.decode(one.tokens.tolist()).startswith("search")


def test_cut_and_dropped_samples_are_counted(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    long = {"prompt": "x" * 100, "completion": "y"}
    kept, notes = cut_samples([PAIR, long], tokenizer, True, 30)
    assert len(kept) == 1
    assert len(kept[0].tokens) <= 31
    assert notes == [
        "cut 1 of 2 samples to 31 tokens (--seq-len)",
        "dropped 1 of 2 samples without a target",
    ]
    with pytest.raises(DataError, match="none of 1 samples has a target in its first "):
        cut_samples([long], tokenizer, True, 30)


def test_impossible_labels_are_refused(
    chat_tokenizer: Make, bytes_tokenizer: Any
) -> None:
    with pytest.raises(DataError, match="1 samples of plain text.*leave out --mask-pr"):
        labelled_samples([{"text": "a"}], chat_tokenizer("chatml"), True)
    with pytest.raises(DataError, match="no chat template.*choose an instruct model"):
        labelled_samples([PAIR], bytes_tokenizer, False)
    with pytest.raises(DataError) as error:
        labelled_samples([PAIR, PAIR], chat_tokenizer("strict"), False)
    assert str(error.value).splitlines() == [
        f"sample {i}: the chat template refuses it: TemplateError: roles must alternate"
        for i in (1, 2)
    ]


TEXTS = ["Où?\n  x", "", "<|im_start|> é\u0301 \U0001f600", "a" * 3000, " "]


def test_many_texts_at_once_give_the_tokens_of_each_alone(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    stream = token_stream([{"text": text} for text in TEXTS], tokenizer)
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    expected = [t for tokens in alone for t in [*tokens, tokenizer.eos_token_id]]
    assert stream.tokens.tolist() == expected


def test_a_class_that_changes_encode_is_asked_for_each_text() -> None:
    """Such as mlx-lm's `NewlineTokenizer`, whose lists of texts go another way."""
    from mlx_lm.tokenizer_utils import NewlineTokenizer, TokenizerWrapper
    from tokenizers import Tokenizer, models

    vocabulary = {"a": 0, "<n>": 1, "<|endoftext|>": 2}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.add_tokens(["<n>"])
    fast = NewlineTokenizer(tokenizer_object=inner, eos_token="<|endoftext|>")
    tokenizer = TokenizerWrapper(fast)
    assert token_stream([{"text": "a\na"}], tokenizer).tokens.tolist() == [0, 1, 0, 2]


def test_progress_is_told_only_where_it_takes_long(
    bytes_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    samples = [{"text": "a" * (CHUNK // 2)}] * 5
    token_stream(samples, bytes_tokenizer, said.append)
    assert said == []
    monkeypatch.setattr("comigs_mlx.data.encoding.QUIET_SECONDS", -1.0)
    token_stream(samples, bytes_tokenizer, said.append)
    assert said == [f"tokenised {done} of 5 documents" for done in (2, 4)]


def test_tokenising_can_be_watched_and_stopped(
    chat_tokenizer: Make, bytes_tokenizer: Any
) -> None:
    told: list[Any] = []
    token_stream([{"text": "a" * CHUNK}] * 2, bytes_tokenizer, advance=tell(told, 9))
    assert told == [("documents", done, 2) for done in range(3)]
    told.clear()
    with pytest.raises(KeyboardInterrupt):
        labelled_samples(
            [PAIR] * 9, chat_tokenizer("chatml"), True, advance=tell(told, 3)
        )
    assert told == [("documents", done, 9) for done in range(4)]


def tell(told: list[Any], last: int) -> Callable[..., None]:
    def advance(*how: Any) -> None:
        told.append(how)
        if how[1] == last:
            raise KeyboardInterrupt

    return advance


def test_errors_name_split_and_place(
    chat_tokenizer: Make, bytes_tokenizer: Any
) -> None:
    placed = [Placed(PAIR, "train.jsonl:7"), PAIR]
    options = {"seq_len": 9, "mask_prompt": False, "split": "train"}
    with pytest.raises(DataError) as error:
        tokenised(placed, "chat", chat_tokenizer("strict"), **options)
    reason = "the chat template refuses it: TemplateError: roles must alternate"
    assert str(error.value).splitlines() == [
        f"train: train.jsonl:7: {reason}",
        f"train: sample 2: {reason}",
    ]
    content, _ = tokenised([{"text": "a"}], "text", bytes_tokenizer, **options)
    shape = {"seq_len": 8, "batch_size": 1}
    with (
        pytest.raises(DataError, match="^valid: expected at least 9"),
        naming_split("valid"),
    ):
        training_batches(content, **shape, seed=0, packing=False)


@pytest.mark.parametrize("mask_prompt", [False, True])
@pytest.mark.parametrize("seq_len", [4, 7, 8, 100])
def test_texts_beside_conversations_are_targets_once_in_windows(
    seq_len: int, mask_prompt: bool, chat_tokenizer: Make
) -> None:
    tokenizer = chat_tokenizer("chatml")
    texts = ["abcdefgh", "ij", "x" * 3 * seq_len]
    samples = [{"text": text} for text in texts] + [PAIR]
    content, _ = tokenised(
        samples, "mixed", tokenizer, seq_len=seq_len, mask_prompt=mask_prompt
    )
    alone = cut(labelled_samples([PAIR], tokenizer, mask_prompt), None)[0]
    whole = token_stream([{"text": text} for text in texts], tokenizer)
    ends = np.cumsum(np.bincount(whole.documents))
    firsts = [0, *ends[:-1]]
    windows = content if seq_len < 100 and mask_prompt else content[:-1]
    targets = [s.tokens[s.labelled] for s in windows]
    assert all(len(s.tokens) <= seq_len + 1 for s in content)
    assert np.array_equal(np.concatenate(targets), np.delete(whole.tokens, firsts))
    if seq_len == 100:
        assert np.array_equal(content[-1].labelled, alone[0].labelled)


def test_a_sample_may_ask_for_its_mask(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("chatml")
    own = labelled_samples([{**PAIR, "mask": "assistant"}, PAIR], tokenizer, False)
    asked = labelled_samples([PAIR], tokenizer, True).samples[0]
    assert np.array_equal(own.samples[0].labelled, asked.labelled)
    assert own.samples[1].labelled[1:].all()
    assert not asked.labelled.all()


LINES = [
    {"role": role, "content": f"{role} {number}"}
    for number in range(9)
    for role in ("user", "assistant")
]


@pytest.mark.parametrize("seq_len", [16, 50, 1000])
def test_no_word_of_mine_in_a_long_chat_is_lost(
    seq_len: int, chat_tokenizer: Make
) -> None:
    """A row of JSONL is truncated instead, whatever its mask."""
    tokenizer = chat_tokenizer("chatml")
    chat = {"messages": LINES, "mask": "assistant"}
    content, notes = tokenised(
        [chat], "chat", tokenizer, seq_len=seq_len, mask_prompt=False
    )
    assert notes == []
    assert all(len(sample.tokens) <= seq_len + 1 for sample in content)
    said = np.concatenate([sample.tokens[sample.labelled] for sample in content])
    mine = "".join(turn["content"] + END + "\n" for turn in LINES[1::2])
    assert tokenizer.decode(said.tolist(), skip_special_tokens=False) == mine
    if seq_len == 50:
        row = {"messages": LINES}
        _, notes = tokenised(
            [row], "chat", tokenizer, seq_len=seq_len, mask_prompt=True
        )
        assert notes[0].startswith("cut 1 of 1 samples")


def test_a_template_that_lets_the_user_begin_costs_the_opening_turn(
    chat_tokenizer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (
        "{% if messages and messages[0].role != 'user' %}{{ raise_exception('no') }}"
    )
    monkeypatch.setitem(TEMPLATES, "user_first", first + "{% endif %}" + CHATML)
    tokenizer = chat_tokenizer("user_first")
    opened = {"messages": LINES[1:4], "mask": "assistant"}
    alone = {"messages": LINES[1:2], "mask": "assistant"}
    (sample,), notes = tokenised(
        [opened, alone], "chat", tokenizer, seq_len=1000, mask_prompt=False
    )
    said = tokenizer.decode(sample.tokens[sample.labelled].tolist())
    assert said.startswith("assistant 1")
    assert notes[-1].startswith("left out 2 opening turns of yours")
    with pytest.raises(DataError, match="refuses it"):
        tokenised(
            [{"messages": LINES[1:4]}],
            "chat",
            tokenizer,
            seq_len=1000,
            mask_prompt=True,
        )
    # Other templates take it as it is.
    (whole,), _ = tokenised(
        [opened], "chat", chat_tokenizer("chatml"), seq_len=1000, mask_prompt=False
    )
    said = tokenizer.decode(whole.tokens[whole.labelled].tolist())
    assert said.startswith("assistant 0")
