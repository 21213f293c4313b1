"""Messages of chats and mails become samples in which I am the assistant.

The model is to write as I do. So my words are the assistant's turns, and what everybody
else says is the user's. Only my words are targets, unless the user asks for more.

    chats          one sample for each stretch of talk without a long pause
    mails          one text for each mail of mine, without its subject; with
                   --mail-threads one sample for each thread
    ChatGPT, Claude    my prompts are the assistant's turns; with --learn-answers the
                   model's answers are, and my prompts are the user's
"""

from __future__ import annotations

import functools
import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from comigs_mlx.data.pieces import Message, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.splits import Placed
from comigs_mlx.errors import UnknownReader

MOST_CHARACTERS = 4_000
"""The characters after which a conversation without a pause is cut at the next turn of
the user. Rendering is quadratic in the turns of one conversation.
"""

SHOWN = 8
"""The most speakers, and the most files, that an error names."""

WITH_ADDRESS = re.compile(r"(.*?)\s*<([^<>\s]+@[^<>\s]+)>")
"""A sender in the form of mail, such as "Ann Lee <ann@example.org>"."""

NUMBER = re.compile(r"[+(]?[\d()/.\s-]{5,}\d")
"""A telephone number with any usual separators."""

PLACE = re.compile(r"(.*):\d+")
"""A place within a file, such as "chat.txt:17"."""

IsMine = Callable[[Message], bool]


def samples(
    messages: Iterable[Message], reading: Reading
) -> Iterator[Placed | Skipped]:
    """Turn all messages of a source into samples.

    Args:
        messages: The messages of all files, in the order of each file.
        reading: The options that say who I am and whose words are learnt.

    Yields:
        {"text": ...} for a mail, {"messages": [...], "mask": "assistant"} for a
        conversation in which only the assistant's turns are targets, the same with the
        mask "none" where all words are, and what is left out.

    Raises:
        UnknownReader: If it is not known who I am; the text lists the speakers.
    """
    messages = list(messages)
    check_me(messages, reading)
    is_mine = functools.partial(_is_mine, _keys_of_me(reading))
    for thread in _threads(messages):
        if thread[0].alone and not reading.mail_threads:
            yield from _texts(thread, is_mine, reading)
        else:
            yield from _conversations(thread, is_mine, reading)


def check_me(messages: Sequence[Message], reading: Reading) -> None:
    """Raise where only names can tell who I am, and none was given or none fits.

    Raises:
        UnknownReader: If so; the text lists the speakers with their numbers of
            messages.
    """
    unclear = [m for m in messages if m.by_me is None and not m.by_model]
    me = _keys_of_me(reading)
    if not unclear or any(_is_mine(me, m) for m in unclear):
        return
    files = list(dict.fromkeys(map(file_of, unclear)))
    where, they = _listed(files), "it has" if len(files) == 1 else "they have"
    example = shlex.quote(_likeliest(unclear))
    counts, speakers = _counted(unclear), _speakers(unclear)
    if not reading.me:
        raise UnknownReader(
            f"who are you in {where}? give --me NAME, such as --me {example}: {they} "
            f"messages by {speakers}",
            counts,
        )
    given = " ".join(shlex.quote(name) for name in reading.me)
    raise UnknownReader(
        f"--me {given} is nobody in {where}: {they} messages by {speakers}: give your "
        f"name as it stands there, such as --me {example}",
        counts,
    )


def mine(messages: Iterable[Message], reading: Reading) -> list[str]:
    """Return the speakers that are the one who trains."""
    me = _keys_of_me(reading)
    return list(dict.fromkeys(m.speaker for m in messages if _is_mine(me, m)))


def notes(messages: Sequence[Message], reading: Reading) -> list[str]:
    """Say what the user should know of who speaks.

    Args:
        messages: The messages of all files.
        reading: The options they were read with.

    Returns:
        A sentence on each name of `--me` that nobody has, on each file in which I say
        nothing, and on answers of language models.
    """
    me = _keys_of_me(reading)
    unclear = [m for m in messages if m.by_me is None and not m.by_model]
    return [
        *_unknown_names(unclear, reading),
        *_silent_files(unclear, me),
        *_on_answers(messages, reading),
    ]


def file_of(message: Message) -> str:
    """Return the file that a message was read from."""
    match = PLACE.fullmatch(message.place)
    return match[1] if match else message.place


@functools.lru_cache(maxsize=10_000)
def names(speaker: str) -> frozenset[str]:
    """Return everything that `speaker` may be called by, comparable by equality.

    Case, spaces, invisible marks and the separators of telephone numbers do not count.
    A sender of mail may be called by name, by address, or by both.
    """
    plain = _plain(speaker)
    called = {plain}
    if match := WITH_ADDRESS.fullmatch(plain):
        called |= {match[1].strip('"'), match[2]}
    if NUMBER.fullmatch(plain):
        called.add(re.sub(r"\D", "", plain).removeprefix("00"))
    return frozenset(called - {""})


def shown(speaker: str) -> str:
    """Return a speaker's name as people read it, without marks that cannot be seen."""
    kept = (c for c in speaker if unicodedata.category(c) not in ("Cf", "Cc"))
    return " ".join("".join(kept).removeprefix("~").split())


def _plain(name: str) -> str:
    return shown(unicodedata.normalize("NFKC", name)).casefold()


def _keys_of_me(reading: Reading) -> frozenset[str]:
    keys: set[str] = set()
    for name in reading.me:
        called = names(name)
        match = WITH_ADDRESS.fullmatch(_plain(name))
        # Who gives an address with the name means one person, not all of that name.
        keys |= called - {match[1]} if match else called
    return frozenset(keys)


def _is_mine(me: frozenset[str], message: Message) -> bool:
    if message.by_me is not None:
        return message.by_me
    # Spam has its receivers' names: who gives an address means that address.
    addresses = frozenset(key for key in me if "@" in key) if message.alone else None
    return not message.by_model and bool(names(message.speaker) & (addresses or me))


def _threads(messages: Iterable[Message]) -> list[list[Message]]:
    """Return the messages by thread; mails of one thread may lie in many files."""
    threads: dict[tuple[str, str], list[Message]] = {}
    for message in messages:
        file = "" if message.alone else file_of(message)
        threads.setdefault((file, message.thread), []).append(message)
    return list(threads.values())


def _texts(
    thread: list[Message], is_mine: IsMine, reading: Reading
) -> Iterator[Placed | Skipped]:
    for message in thread:
        if is_mine(message) or reading.learn_others:
            yield Placed({"text": message.text}, message.place)
        else:
            yield Skipped("mails by others", message.place)


def _conversations(
    thread: list[Message], is_mine: IsMine, reading: Reading
) -> Iterator[Placed | Skipped]:
    with_model = any(m.by_model for m in thread)
    natural = with_model and reading.learn_answers
    others = {shown(m.speaker) for m in thread if not is_mine(m)}
    all_learnt = reading.learn_others and not with_model

    def role(message: Message) -> str:
        speaks = message.by_model if natural else is_mine(message)
        return "assistant" if speaks else "user"

    if thread[0].alone:  # mail waits for days, and lies in any order
        thread, hours = sorted(thread, key=lambda m: m.time or 0), math.inf
    else:
        hours = reading.pause_hours
    for part in _between_pauses(thread, hours):
        turns = _turns(part, role, named=len(others) > 1 and not natural)
        for piece in _pieces(turns):
            yield _sample(piece, part[0].place, natural, all_learnt)


def _sample(
    turns: list[dict[str, str]], place: str, natural: bool, all_learnt: bool
) -> Placed | Skipped:
    if all_learnt:
        return Placed({"messages": turns, "mask": "none"}, place)
    # Nothing is learnt from what others say after the last target.
    while turns and turns[-1]["role"] == "user":
        turns = turns[:-1]
    if not turns:
        what = "an answer" if natural else "a word of yours"
        return Skipped(f"conversations without {what}", place)
    return Placed({"messages": turns, "mask": "assistant"}, place)


def _between_pauses(thread: list[Message], hours: float) -> Iterator[list[Message]]:
    """Cut a thread where nobody spoke for more than `hours`."""
    part = thread[:1]
    for before, message in zip(thread, thread[1:], strict=False):
        known = before.time is not None and message.time is not None
        if known and (message.time or 0) - (before.time or 0) >= hours * 3600:
            yield part
            part = []
        part.append(message)
    yield part


def _turns(
    part: Iterable[Message], role: Callable[[Message], str], named: bool
) -> list[dict[str, str]]:
    """Join what is said without another's word between; roles alternate then."""
    turns = []
    for whose, said in groupby(part, role):
        prefixed = named and whose == "user"
        lines = [f"{shown(m.speaker)}: " * prefixed + m.text for m in said]
        turns.append({"role": whose, "content": "\n".join(lines)})
    return turns


def _pieces(turns: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Cut a long conversation before turns of the user."""
    piece: list[dict[str, str]] = []
    size = 0
    for turn in turns:
        if turn["role"] == "user" and size >= MOST_CHARACTERS:
            yield piece
            piece, size = [], 0
        piece.append(turn)
        size += len(turn["content"])
    yield piece


def _unknown_names(unclear: Sequence[Message], reading: Reading) -> Iterator[str]:
    called = frozenset().union(*(names(m.speaker) for m in unclear))
    for name in reading.me if unclear else ():
        if not called & names(name):
            yield f"--me {shlex.quote(name)} is nobody in the chats and mails read"


def _silent_files(unclear: Sequence[Message], me: frozenset[str]) -> Iterator[str]:
    by_file: dict[str, list[Message]] = {}
    for message in unclear:
        # Most files of a Maildir are somebody else's mail.
        if not message.alone:
            by_file.setdefault(file_of(message), []).append(message)
    for file, said in by_file.items():
        if not any(_is_mine(me, m) for m in said):
            yield (
                f"you say nothing in {file}, which has messages by {_speakers(said)}: "
                "if one of them is you, add that name to --me"
            )


def _on_answers(messages: Sequence[Message], reading: Reading) -> Iterator[str]:
    count = sum(m.by_model for m in messages)
    if count and reading.learn_answers:
        yield (
            f"{count:,} answers of another language model are learnt "
            "(--learn-answers): read its provider's terms of use first, which may "
            "forbid training other models on them, above all ones that you share"
        )
    elif count:
        yield (
            f"{count:,} answers of another language model are read as context and not "
            "learnt (--learn-answers learns them)"
        )


def _counted(messages: Iterable[Message]) -> list[tuple[str, int]]:
    return Counter(shown(m.speaker)[:60] for m in messages).most_common()


def _speakers(messages: Iterable[Message]) -> str:
    counts = _counted(messages)
    listed = ", ".join(f"{name} ({count:,})" for name, count in counts[:SHOWN])
    more = len(counts) - SHOWN
    return f"{listed} and {more:,} others" if more > 0 else listed


def _likeliest(messages: Iterable[Message]) -> str:
    """Return the name that is in the most chats, then the one of the most messages.

    All mail counts as one chat, where the sender's name may be one of a chat's.
    Between a sender's name and address, the address is surer.
    """
    chats: dict[str, set[tuple[str, str]]] = {}
    counts: Counter[str] = Counter()
    for message in messages:
        whole = shown(message.speaker)
        match = WITH_ADDRESS.fullmatch(whole)
        chat = ("", "") if message.alone else (file_of(message), message.thread)
        for name in [match[1].strip('"'), match[2]] if match else [whole]:
            chats.setdefault(name, set()).add(chat)
            counts[name] += 1
    return max(chats, key=lambda name: (len(chats[name]), counts[name], "@" in name))


def _listed(files: Sequence[str]) -> str:
    more = len(files) - SHOWN
    return ", ".join(files[:SHOWN]) + (f" and {more:,} more files" if more > 0 else "")
