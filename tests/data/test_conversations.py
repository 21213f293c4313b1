"""Who says what must be right in both directions, whoever speaks in whatever order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from comigs_mlx.data import conversations
from comigs_mlx.data.conversations import MOST_CHARACTERS, check_me, samples
from comigs_mlx.data.pieces import Message, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.splits import Placed
from comigs_mlx.errors import DataError

HOUR = 3600.0


def said(*speakers: str, **fields: Any) -> list[Message]:
    """A message "SPEAKER 0", "SPEAKER 1" ... by each speaker, a minute apart."""
    return [
        Message(name, f"{name} {i}", f"chat.txt:{i + 1}", time=60.0 * i, **fields)
        for i, name in enumerate(speakers)
    ]


def turns(messages: list[Message], **options: Any) -> list[list[tuple[str, str]]]:
    found = samples(messages, Reading(**options))
    return [
        [(turn["role"], turn["content"]) for turn in sample["messages"]]
        for sample in found
        if isinstance(sample, Placed)
    ]


@pytest.mark.parametrize("order", list(itertools.product("AB", repeat=5)))
def test_my_words_are_the_assistants_and_no_others_whoever_i_am(
    order: tuple[str, ...],
) -> None:
    """Over all 32 orders of two speakers, and from the side of each."""
    for me in set(order):
        (found,) = turns(said(*order), me=(me,))
        by_role = {role: [] for role in ("assistant", "user")}
        for role, content in found:
            by_role[role] += content.split("\n")
        assert all(line[0] == me for line in by_role["assistant"])
        assert all(line[0] != me for line in by_role["user"])
        # Nothing is lost but what others say after my last word; roles alternate.
        mine = [f"{me} {i}" for i, name in enumerate(order) if name == me]
        assert by_role["assistant"] == mine
        assert all(a[0] != b[0] for a, b in itertools.pairwise(found))
        assert found[-1][0] == "assistant"


def test_what_the_format_knows_goes_before_names() -> None:
    mine = said("Ann", "Ben", by_me=True)[:1] + said("Ann", "Ben", by_me=False)[1:]
    assert turns(mine, me=("Ben",)) == [[("assistant", "Ann 0")]]


@pytest.mark.parametrize(
    ("speaker", "name"),
    [
        ("Ann Lee", "ann  LEE"),
        ("\u200e~\u202fAnn Lee", "Ann Lee"),
        ("Jose\u0301", "José"),
        ("\u202a+49\u00a0170\u00a01234567\u202c", "0049 170/1234567"),
        ("Ann Lee <Ann@Example.org>", "ann@example.ORG"),
        ("Ann Lee <ann@example.org>", "Ann Lee"),
        ("ann@example.org", "Ann Lee <ann@example.org>"),
    ],
)
def test_a_name_is_found_in_any_spelling(speaker: str, name: str) -> None:
    assert turns(said(speaker), me=("somebody", name))


@pytest.mark.parametrize(
    ("speaker", "name"),
    [
        ("Ann", "An"),
        ("Ann Lee", "Ann"),
        ("Ann Lee <other@example.org>", "Ann Lee <ann@example.org>"),
        ("+49 170 1234567", "+49 170 123456"),
    ],
)
def test_a_part_of_a_name_is_somebody_else(speaker: str, name: str) -> None:
    with pytest.raises(DataError, match="is nobody in"):
        turns(said(speaker), me=(name,))


def test_all_my_names_are_me() -> None:
    messages = said("Ann", "Ben", "+49 170 1234567")
    assert turns(messages, me=("ann", "+491701234567")) == [
        [("assistant", "Ann 0"), ("user", "Ben 1"), ("assistant", "+49 170 1234567 2")]
    ]


def test_a_pause_ends_a_conversation_and_a_sample_says_where_it_begins() -> None:
    first, second, third = said("Ben", "Ann", "Ann")
    late = Message("Ann", "late", "chat.txt:9", time=(third.time or 0) + 2 * HOUR)
    timeless = Message("Ann", "when?", "chat.txt:10")
    found = list(
        samples(
            [first, second, third, late, timeless], Reading(("Ann",), pause_hours=2)
        )
    )
    assert [s.place for s in found] == ["chat.txt:1", "chat.txt:9"]
    assert found[1]["messages"][0]["content"] == "late\nwhen?"


def test_threads_are_kept_apart_within_a_file_and_between_files() -> None:
    messages = [
        Message(name, f"{file}{thread}", f"{file}:1", thread)
        for name in ("Ben", "Ann")
        for file, thread in (("a", "1"), ("a", "2"), ("b", "1"))
    ]
    assert turns(messages, me=("Ann",)) == [
        [("user", text), ("assistant", text)] for text in ("a1", "a2", "b1")
    ]


def test_several_others_are_named_in_the_users_turn() -> None:
    messages = said("Ben", "\u200eCem", "Ann", "Ben", "Ann")
    assert turns(messages, me=("Ann",)) == [
        [
            ("user", "Ben: Ben 0\nCem: \u200eCem 1"),
            ("assistant", "Ann 2"),
            ("user", "Ben: Ben 3"),
            ("assistant", "Ann 4"),
        ]
    ]


def test_others_words_are_never_targets_unless_asked_for() -> None:
    messages = [*said("Ben", "Ann", "Ben"), Message("Cem", "hi", "other.txt:1")]
    mine, skipped = samples(messages, Reading(("Ann",)))
    assert mine["mask"] == "assistant"
    assert skipped == Skipped("conversations without a word of yours", "other.txt:1")
    all_of_them = list(samples(messages, Reading(("Ann",), learn_others=True)))
    assert [sample["mask"] for sample in all_of_them] == ["none", "none"]
    assert [len(sample["messages"]) for sample in all_of_them] == [3, 1]


def with_model() -> list[Message]:
    me, model = {"by_me": True}, {"by_me": False, "by_model": True}
    return [
        Message("you", "q1", "c.json:1", **me),
        Message("ChatGPT", "a1", "c.json:1", **model),
        Message("you", "q2", "c.json:1", **me),
        Message("ChatGPT", "a2", "c.json:1", **model),
    ]


@pytest.mark.parametrize("learn_others", [False, True])
def test_a_models_answers_are_context_unless_asked_for(learn_others: bool) -> None:
    options = Reading(learn_others=learn_others)
    (sample,) = samples(with_model(), options)
    assert [(t["role"], t["content"]) for t in sample["messages"]] == [
        ("assistant", "q1"),
        ("user", "a1"),
        ("assistant", "q2"),
    ]
    assert sample["mask"] == "assistant"
    (note,) = conversations.notes(with_model(), options)
    assert note.startswith("2 answers of another language model are read as context")


def test_learnt_answers_have_the_natural_roles_and_a_word_on_terms_of_use() -> None:
    options = Reading(learn_answers=True)
    (sample,) = samples(with_model(), options)
    roles = [turn["role"] for turn in sample["messages"]]
    assert roles == ["user", "assistant"] * 2
    assert sample["mask"] == "assistant"
    (note,) = conversations.notes(with_model(), options)
    assert "terms of use" in note


def test_an_address_keeps_others_of_my_name_out_of_my_mail() -> None:
    mails = [
        Message("Ann <a@x.org>", "mine", "1.eml", alone=True),
        Message("Ann <spam@x.org>", "buy", "2.eml", alone=True),
    ]

    def learnt(*me: str) -> list[str]:
        found = samples([*mails, *said("Ann")], Reading(me))
        return [s["text"] for s in found if isinstance(s, Placed) and "text" in s]

    assert learnt("Ann", "a@x.org") == ["mine"]
    assert learnt("Ann") == ["mine", "buy"]


def test_mails_of_mine_are_texts() -> None:
    mails = [
        Message(name, f"by {name}", f"m.mbox:{i}", alone=True)
        for i, name in enumerate(["Ann <a@x.org>", "Ben <b@x.org>", "a@x.org"])
    ]
    mine = [
        Placed({"text": "by Ann <a@x.org>"}, "m.mbox:0"),
        Skipped("mails by others", "m.mbox:1"),
        Placed({"text": "by a@x.org"}, "m.mbox:2"),
    ]
    found = list(samples(mails, Reading(("A@x.org",))))
    assert sorted(map(repr, found)) == sorted(map(repr, mine))
    everybodys = samples(mails, Reading(("A@x.org",), learn_others=True))
    assert sum(isinstance(s, Placed) for s in everybodys) == 3


def test_threads_of_mail_become_conversations_if_asked_for() -> None:
    days = 24 * HOUR
    mails = [
        Message("Ann <a@x.org>", "answer", "2.eml", "<1@x>", 3 * days, alone=True),
        Message("Ben <b@x.org>", "question", "1.eml", "<1@x>", days, alone=True),
        Message("Ann <a@x.org>", "other", "3.eml", "<3@x>", days, alone=True),
    ]
    assert turns(mails, me=("a@x.org",), mail_threads=True) == [
        [("user", "question"), ("assistant", "answer")],
        [("assistant", "other")],
    ]


def test_a_long_conversation_is_cut_before_turns_of_the_user_and_loses_nothing() -> (
    None
):
    text = "x" * (MOST_CHARACTERS // 3)
    messages = [Message("AB"[i % 2], f"{i}{text}", f"c:{i}") for i in range(20)]
    found = turns(messages, me=("B",))
    assert len(found) > 3
    assert all(sample[0][0] == "user" for sample in found)
    contents = [content for sample in found for _, content in sample]
    assert contents == [message.text for message in messages]


def test_asks_who_i_am_with_the_speakers_and_the_flag() -> None:
    messages = [*said("Ann Lee", "Ben", "Ben"), Message("Ann Lee", "x", "b.txt:1")]
    with pytest.raises(DataError) as asked:
        check_me(messages, Reading())
    # Ben says as much, but only Ann is in both files.
    assert str(asked.value) == (
        "who are you in chat.txt, b.txt? give --me NAME, such as --me 'Ann Lee': they "
        "have messages by Ann Lee (2), Ben (2)"
    )
    with pytest.raises(DataError) as asked:
        check_me(messages[:3], Reading(me=("Cem",)))
    assert str(asked.value) == (
        "--me Cem is nobody in chat.txt: it has messages by Ben (2), Ann Lee (1): give "
        "your name as it stands there, such as --me Ben"
    )


def test_suggests_who_is_in_chats_and_in_mail() -> None:
    mails = [
        Message(name, "x", f"{i}.eml", f"{i}", alone=True)
        for name in ("Ann Lee <ann@x.org>", "news@x.org")
        for i in range(5)
    ]
    with pytest.raises(DataError, match="such as --me 'Ann Lee':"):
        check_me([*mails, *said("Ben", "Ann Lee", "Ann Lee", "Ben")], Reading())
    with pytest.raises(DataError, match="such as --me ann@x.org:"):
        check_me(mails, Reading())


def test_only_asks_where_names_alone_can_tell() -> None:
    check_me(with_model(), Reading())
    check_me(said("Me", by_me=True), Reading())
    check_me([], Reading(me=("Ann",)))


def test_names_that_nobody_has_and_files_without_me_are_noted() -> None:
    messages = [*said("Ann", "Ben"), Message("A. Lee", "x", "other.txt:1")]
    assert conversations.notes(messages, Reading(("Ann", "Zoe"))) == [
        "--me Zoe is nobody in the chats and mails read",
        "you say nothing in other.txt, which has messages by A. Lee (1): if one of "
        "them is you, add that name to --me",
    ]
