"""Near duplicates are those of exact Jaccard similarity; languages are guessed."""

import random

import numpy as np
import pytest

from comigs_mlx.data import duplicates, languages
from comigs_mlx.data.splits import Placed

WORDS = [f"word{i}" for i in range(400)]


def text(rng, count=120):
    return " ".join(rng.choice(WORDS) for _ in range(count))


def jaccard(one, other):
    """By sets of strings, which is the definition."""
    sets = [
        {t[i : i + duplicates.SHINGLE] for i in range(len(t) - duplicates.SHINGLE + 1)}
        for t in (one, other)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_similarity_is_jaccard_s():
    rng = random.Random(0)
    for changed in (0, 1, 5, 60, 120):
        words = text(rng).split()
        one = " ".join(words)
        words[:changed] = text(rng, changed).split()
        other = " ".join(words)
        hashed = [duplicates.shingles(t.encode()) for t in (one, other)]
        assert duplicates.similarity(*hashed) == pytest.approx(jaccard(one, other))


def test_near_pairs_are_those_of_all_pairs():
    rng = random.Random(0)
    texts = [text(rng) for _ in range(30)]
    for number in range(15):  # from nearly the same to quite another
        words = texts[number].split()
        words[: 2 * number] = text(rng, 2 * number).split()
        texts.append(" ".join(words) + ".")
    found, compared = duplicates.near_pairs(texts)
    exact = [
        (b, a)
        for b in range(len(texts))
        for a in range(b)
        if jaccard(texts[a], texts[b]) >= duplicates.NEAR
    ]
    assert 3 < len(exact) < 15
    assert found == exact
    assert compared == len(texts)


def test_a_first_shingle_agrees_as_often_as_the_sets_do():
    """MinHash's own law, on which the bands rest."""
    rng = np.random.default_rng(2)
    values = duplicates._mixed(rng.integers(0, 2**62, 3000).astype(np.uint64))
    one, other = np.sort(values[:2000]), np.sort(values[1000:])
    agree = np.mean([
        duplicates._mixed(one ^ order).min() == duplicates._mixed(other ^ order).min()
        for order in duplicates._mixed(np.arange(2000, dtype=np.uint64))
    ])  # fmt: skip
    assert agree == pytest.approx(1 / 3, abs=0.04)


def test_counts_by_split(monkeypatch):
    rng = random.Random(3)
    one, other = text(rng), text(rng)
    chat = {"messages": [{"role": "user", "content": f"{one} and so"}]}
    splits = {
        "train": [{"text": one}, {"text": other}, {"text": one}, {"text": ""}],
        "valid": [Placed(chat, "chat.txt:7"), {"prompt": "", "completion": other}],
        "test": [{"text": "a"}, {"text": "b"}],
    }
    found = duplicates.duplicates(splits)
    assert (found.exact, found.near, found.across) == (1, 2, 2)
    assert found.compared == 7
    assert found.examples == [("chat.txt:7", "train 1"), ("valid 2", "train 2")]
    assert duplicates.duplicates(splits, near=False) == duplicates.Duplicates(1)
    monkeypatch.setattr(duplicates, "MOST_BYTES", len(one) + len(other))
    assert duplicates.duplicates(splits).compared == 3  # the empty one fits as well


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("I think that this is the end of it, but you are not.", "English"),
        ("Ich weiß nicht, ob das der Weg ist, und wir gehen zu den Bergen.", "German"),
        ("Je ne sais pas si les amis sont dans le jardin avec vous.", "French"),
        ("No sé por qué los niños se van, pero es muy tarde para la cena.", "Spanish"),
        ("Não sei o que você quer, mas isso também é para os meninos.", "Portuguese"),
        ("Привет, как дела?", "Cyrillic script"),
        ("今日は天気がいいですね", "Japanese"),
        ("今天天气很好我们去公园", "Chinese"),
        ("x = f(y) * 2 + zeta", "Latin script"),
        ("12 + 34 = 46", languages.NOTHING),
    ],
)
def test_guesses_a_language(line, language):
    assert languages.guess(line) == language


def test_counts_characters_by_language():
    german = "der die das ist nicht ich"
    assert languages.guesses(["1", german, german]) == {
        "German": 2 * len(german), languages.NOTHING: 1,
    }  # fmt: skip
