"""Messages of the library in the words of the page.

The library writes for the command line. A reader of the page has no flags, no modules
and no exceptions, but labels and buttons: this is the one place that translates.
"""

from __future__ import annotations

import re

LABELS = {
    "model": "Base model",
    "data": "Folder or file of your text",
    "run": "Run",
    "resume": "Resume",
    "federation": "Federation",
    "participant": "Your name in it",
    "allow": "the participants the founder allowed",
    "temp": "Temperature",
    "top-p": "Top-p",
    "max-tokens": "Max tokens",
    "system-prompt": "System prompt",
    "experts": "Who speaks",
    "redact": "Replace passwords",
}
"""Flags and what the page calls them; others go by themselves: --seq-len is Seq len."""

COMMANDS = {
    "train": "the Train tab",
    "generate": "the Chat tab",
    "sync pull": "Get the newest in the Share tab",
    "sync push": "Send in the Share tab",
    "sync status": "the Share tab",
}
"""Commands and where the page has them; others are for a terminal."""

TAB = re.compile(r"\bthe (Chat|Train|Share) tab\b")
"""A part of the page that a message sends its reader to."""

VALUE = r"(?:[ =](?:[A-Z][A-Z|]+|\{[^}]*\}))?"
"""What a flag in a message stands before: NAME, URI, ID|PATH."""

COMMAND = re.compile(
    r"python3? -m comigs_mlx\.(sync \w+|\w+)"
    r"(?: +--[a-z][\w-]*(?:[ =](?!--)[^\s;,()]*[^\s;:,()])?)*"
)
RESUMING = re.compile(r"\b(train|continue)( it| the run| this run)? with --resume\b")
NAMED = re.compile(r"\s*\([A-Z]\w*(?:Error|Exception)\)")
EXCEPTION = re.compile(
    r"\s*[:(]?\s*\b[A-Z]\w*(?:Error|Exception)\(.*?\)+(?=[:;,.)\s]|$)"
)
CLASS = re.compile(r"\b[A-Z]\w*(?:Error|Exception): ")
FLAG = re.compile(r"--(no-)?([a-z][a-z0-9]*(?:-[a-z0-9]+)*)" + VALUE)
KIND = re.compile(r"\b([a-z][a-z_]*): expected (?:an? )?\w+(?: or \w+)*, got None")


def page(text: str) -> str:
    """A message of the library as the page says it."""
    text = KIND.sub(lambda m: f"{label(m[1])}: fill in a number", text)
    text = NAMED.sub("", EXCEPTION.sub("", CLASS.sub("", text)))
    text = RESUMING.sub("press Resume in the Train tab", text)
    text = COMMAND.sub(lambda m: COMMANDS.get(m[1], "a command in a terminal"), text)
    text = FLAG.sub(lambda m: f"{label(m[2])}{' off' if m[1] else ''}", text)
    return re.sub(r"\bcomigs_mlx\.[a-z_.]+\b", "comigs_mlx", text)


def tab(text: str) -> str | None:
    """The name of the tab that a message of the page sends its reader to, if any."""
    found = TAB.search(text)
    return None if found is None else found[1]


def label(name: str) -> str:
    """An option's name on the page: `seq_len` or `seq-len` is "Seq len"."""
    name = name.replace("_", "-")
    return LABELS.get(name, name.replace("-", " ").capitalize())
