"""What the page says has no word of the command line in it."""

import re
from pathlib import Path

import pytest

from app import words


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "runs/a has no save yet: train it with --resume",
            "runs/a has no save yet: press Resume in the Train tab",
        ),
        ("--rank 0 must be at least 1", "Rank 0 must be at least 1"),
        ("steps: expected int, got None", "Steps: fill in a number"),
        (
            "no federation at x: found one with python -m comigs_mlx.sync init",
            "no federation at x: found one with a command in a terminal",
        ),
        (
            "train one with python -m comigs_mlx.train --run runs/mine",
            "train one with the Train tab",
        ),
        (
            "--participant NAME is missing: your name in the federation",
            "Your name in it is missing: your name in the federation",
        ),
        ("x is damaged (JSONDecodeError('Expecting')): y", "x is damaged: y"),
        ("cannot fetch x (LocalEntryNotFoundError): y", "cannot fetch x: y"),
        ("drop --no-grad-checkpoint", "drop Grad checkpoint off"),
        ("--model ID|PATH: unknown", "Base model: unknown"),
        ("a -- b, 3--4, half-done --", "a -- b, 3--4, half-done --"),
    ],
)
def test_messages_in_the_words_of_the_page(said, shown):
    assert words.page(said) == shown


def sentences():
    """Every text in the library that names a flag or a command."""
    found = set()
    for file in Path("comigs_mlx").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        found |= set(re.findall(r'"([^"\n]*(?:--[a-z]|python -m)[^"\n]*)"', text))
    return sorted(found)


def test_no_message_of_the_library_brings_a_flag_to_the_page():
    every = sentences()
    assert len(every) > 50
    for text in every:
        made = words.page(re.sub(r"\{last\.command\}", "grow", text))
        assert not re.search(r"(?<![\w-])--[a-z]", made), (text, made)
        assert "comigs_mlx." not in made, (text, made)
