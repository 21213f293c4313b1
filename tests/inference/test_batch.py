"""A batch of answers: each is what it is alone, with its own settings and routing."""

import functools
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import ConfigError, ModelError, UnsupportedModel
from comigs_mlx.inference import batch as batches
from comigs_mlx.inference import tilts
from comigs_mlx.inference.batch import Answer, Batch, check_batchable
from comigs_mlx.inference.generation import Generation
from comigs_mlx.inference.prompt_cache import PromptCache
from comigs_mlx.inference.settings import Settings
from comigs_mlx.runs.folder import RunFolder

GREEDY = Settings(temperature=0.0, max_tokens=6)
PROMPTS = (b"Dear diary", b"ab", b"the keeper wrote down the wind " * 3)


@pytest.fixture(scope="module")
def loaded(trained):
    """family -> base and mixture of a run."""

    @functools.cache
    def load(family="llama"):
        run = trained(family, specialists=2, learning_rate=0.05)
        return RunFolder(run).load()

    return load


@pytest.fixture
def speaking(loaded):
    return loaded()


def answers(base, settings, **given):
    return [Answer(base, list(prompt), settings, **given) for prompt in PROMPTS]


def drawn(batch, mixture):
    """answer -> its tokens, once the batch is empty."""
    told = {}
    while len(batch):
        for answer, token in batch.step(mixture):
            told.setdefault(answer, []).append(token)
    return told


def together(speaking, made, selection="auto", tilt=None, prompts=None):
    """The tokens of answers that are drawn in one batch."""
    base, mixture = speaking
    batch = Batch(base, selection, tilt, prompts or PromptCache(), "me")
    for answer in made:
        batch.add(answer, mixture)
    told = drawn(batch, mixture)
    return [told[answer] for answer in made]


def alone(speaking, prompt, settings, details=False):
    base, mixture = speaking
    with mixture.selected(settings.selection):
        return list(Generation(base, mixture, list(prompt), settings, details=details))


def ids(tokens):
    return [(token.id, token.text, token.finish_reason) for token in tokens]


@pytest.mark.parametrize(
    ("family", "selection"),
    [
        ("llama", "auto"),
        ("llama", (0.2, 0.3, 0.5)),
        ("llama", "base"),
        ("gpt2", "auto"),  # looks positions up in a table
    ],
)
def test_each_answer_and_its_routing_is_what_it_is_alone(loaded, family, selection):
    lean = 1.5 if selection == "auto" else None
    settings = replace(GREEDY, selection=selection, lean=lean)
    speaking = loaded(family)
    base, mixture = speaking
    tilt = tilts.of_settings(mixture, settings)
    made = answers(base, settings, likeliest=3)
    for prompt, tokens in zip(
        PROMPTS, together(speaking, made, selection, tilt), strict=True
    ):
        expected = alone(speaking, prompt, settings, details=True)
        assert ids(tokens) == ids(expected)
        weights, theirs = (
            np.array([t.weights for t in ts]) for ts in (tokens, expected)
        )
        assert weights.shape == theirs.shape
        assert np.abs(weights - theirs).max() < 1e-5
        for token, other in zip(tokens, expected, strict=True):
            assert len(token.alternatives) == 3
            assert token.log_probability == pytest.approx(
                other.log_probability, abs=1e-4
            )
            assert token.own == other.own


def test_settings_are_each_answer_s_own(speaking):
    base, mixture = speaking
    prompt = list(PROMPTS[0])
    plain = ids(alone(speaking, prompt, GREEDY))
    other = next(t for t in range(64, 90) if t != plain[0][0])
    wished = [
        GREEDY,
        replace(GREEDY, logit_bias={other: 1000.0}),
        replace(GREEDY, max_tokens=2),
        replace(
            GREEDY,
            logit_bias={other: 1000.0},
            stop=(base.tokenizer.decode([other]) * 3,),
        ),
        replace(GREEDY, temperature=1.0, seed=3),
    ]
    made = [Answer(base, prompt, settings) for settings in wished]
    told = [ids(tokens) for tokens in together(speaking, made)]
    assert told[0] == plain
    assert {token for token, _, _ in told[1]} == {other}
    assert [token for token, _, _ in told[2]] == [token for token, _, _ in plain[:2]]
    assert told[2][-1][2] == "length"
    assert [text for _, text, _ in told[3]] == ["", "", ""]
    assert told[3][-1][2] == "stop"
    seeded = Answer(base, prompt, wished[4])
    assert ids(together(speaking, [seeded])[0]) == told[4]  # whoever else draws
    unlike = Answer(base, prompt, replace(wished[4], seed=4))
    assert ids(together(speaking, [unlike])[0]) != told[4]


def test_every_draw_of_an_answer_is_another(speaking):
    base, _ = speaking
    flat = mx.zeros((1, 64))
    one, same = (
        [draw(flat).item() for _ in range(20)]
        for draw in (
            batches._own_draws(replace(GREEDY, temperature=1.0, seed=5), base.tokenizer)
            for _ in "ab"
        )
    )
    assert one == same
    assert len(set(one)) > 10


def test_what_was_read_is_kept_for_the_same_experts_only(speaking):
    base, mixture = speaking
    prompts, prompt = PromptCache(), list(PROMPTS[2])
    first = Answer(base, prompt, GREEDY)
    (tokens,) = together(speaking, [first], prompts=prompts)
    again = Answer(base, prompt, GREEDY)
    assert ids(together(speaking, [again], prompts=prompts)[0]) == ids(tokens)
    assert (first.cached, again.cached) == (0, len(prompt) - 1)
    tilted = Answer(base, prompt, GREEDY)
    lean = tilts.as_input(tilts.lean_rows(mixture, 1.0))
    together(speaking, [tilted], tilt=lean, prompts=prompts)
    assert tilted.cached == 0


def test_who_leaves_early_disturbs_nobody_and_what_it_read_is_kept(speaking):
    base, mixture = speaking
    prompts = PromptCache()
    batch = Batch(base, "auto", None, prompts, "me")
    stays, leaves = (Answer(base, list(p), GREEDY) for p in PROMPTS[:2])
    for answer in (stays, leaves):
        batch.add(answer, mixture)
    told = []
    while not told:
        told += batch.step(mixture)
    batch.remove(leaves)
    first = [token for answer, token in told if answer is stays]
    rest = drawn(batch, mixture)
    assert list(rest) == [stays]
    assert ids([*first, *rest[stays]]) == ids(alone(speaking, stays.prompt, GREEDY))
    back = Answer(base, leaves.prompt, GREEDY)
    together(speaking, [back], prompts=prompts)
    assert back.cached


def test_changed_values_are_not_kept(speaking):
    base, mixture = speaking
    prompts = PromptCache()
    batch = Batch(base, "auto", None, prompts, "me")
    batch.add(Answer(base, list(PROMPTS[0]), GREEDY), mixture)
    batch.forget()
    drawn(batch, mixture)
    again = Answer(base, list(PROMPTS[0]), GREEDY)
    together(speaking, [again], prompts=prompts)
    assert again.cached == 0


def test_what_cannot_be_drawn_is_refused_before(speaking):
    base, _ = speaking
    with pytest.raises(ConfigError, match="top-p 0"):
        Answer(base, [1], replace(GREEDY, top_p=0.0))
    given = "the logit bias has token id 9999, .*: give ids of this model"
    with pytest.raises(ModelError, match=given):
        Answer(base, [1], replace(GREEDY, logit_bias={9999: 1.0}))
    with pytest.raises(ConfigError, match="reads at most"):
        Answer(base, [1] * 10_000, GREEDY)


def test_a_cache_that_cannot_be_merged_is_refused(speaking, monkeypatch):
    base, _ = speaking
    check_batchable(base)

    class Odd:
        pass

    monkeypatch.setattr("mlx_lm.models.cache.make_prompt_cache", lambda model: [Odd()])
    with pytest.raises(UnsupportedModel, match="cannot batch .* is a Odd: choose"):
        check_batchable(base)
