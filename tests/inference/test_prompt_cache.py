"""Whatever was stopped or failed before: the next answer is a fresh engine's."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import (
    CacheList,
    KVCache,
    RotatingKVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
)

from comigs_mlx.inference import generation
from comigs_mlx.inference.chat_engine import ChatEngine, Settings
from comigs_mlx.inference.prompt_cache import CONVERSATIONS, PromptCache, tokens_read
from comigs_mlx.model.base import load_base
from comigs_mlx.model.mixture import Mixture

CHUNK = 8
GREEDY = Settings(temperature=0.0, max_tokens=4)
ASK = [{"role": "user", "content": "What did I plan for the spring?"}]
OTHER = [{"role": "user", "content": "What did she plant in the autumn?"}]
ON = [*ASK, {"role": "assistant", "content": "x"}, {"role": "user", "content": "More"}]


class Failure(RuntimeError):
    """Something that nobody expected."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(generation, "chunk_tokens", lambda: CHUNK)


@pytest.fixture(params=["llama", "gemma3_text"])
def run(request, trained):
    return trained(request.param, specialists=2, learning_rate=0.05)


@pytest.fixture
def engine(run):
    made = ChatEngine()
    made.choose(run)
    yield made
    made.close()


@pytest.fixture(scope="module")
def told():
    """What `fresh` has said already."""
    return {}


@pytest.fixture
def fresh(run, engine, told):
    """(messages, settings) -> what an engine says that has read nothing."""

    def say(messages, settings=GREEDY):
        key = repr((run, messages, settings))
        if key not in told:
            engine._loaded.prompts.clear()
            told[key] = list(engine.reply(messages, settings))
            engine._loaded.prompts.clear()
        return told[key]

    return say


def same(found, expected):
    assert [t.id for t in found] == [t.id for t in expected]
    for one, other in zip(found, expected, strict=True):
        pairs = zip(one.alternatives, other.alternatives, strict=True)
        for a, b in pairs:
            assert a.probability == pytest.approx(b.probability, abs=1e-5)
        assert np.allclose(one.weights, other.weights, atol=1e-5)
    return True


def at_call(number, do):
    """A function that does something else at one call, counted from 0."""
    calls = iter(range(10_000))
    return lambda *_: do() if next(calls) == number else False


PENALTIES = {
    "repetition": {"repetition_penalty": 3.0, "repetition_context_size": 200},
    "presence": {"presence_penalty": 5.0, "presence_context_size": 200},
    "frequency": {"frequency_penalty": 5.0, "frequency_context_size": 200},
}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties_look_at_what_was_read_before(engine, fresh, penalty):
    settings = replace(GREEDY, **PENALTIES[penalty])
    expected = fresh(ASK, settings)
    assert [t.id for t in expected] != [t.id for t in fresh(ASK)]
    for _ in range(2):  # the second time, all but one token of the prompt has been read
        assert same(list(engine.reply(ASK, settings)), expected)


def test_stopped_at_any_moment(engine, fresh):
    """Before the first token, between chunks, between tokens, after the last."""
    expected = {repr(m): fresh(m) for m in (ASK, ON, OTHER)}
    asked = []
    list(engine.reply(ASK, GREEDY, lambda: asked.append(1)))
    engine._loaded.prompts.clear()
    assert len(asked) > 7  # one before, three between chunks, one before each token
    for moment in range(len(asked) + 1):
        for messages in (ASK, ON, ASK):  # retry, go on, retry: all from what is kept
            said = list(engine.reply(ASK, GREEDY, at_call(moment, lambda: True)))
            assert said == [] or same(said, expected[repr(ASK)][: len(said)])
            assert same(list(engine.reply(messages, GREEDY)), expected[repr(messages)])
        engine._loaded.prompts.clear()


def test_failed_at_any_moment(engine, fresh):
    expected = fresh(ASK)

    def fail():
        raise Failure

    told = []
    list(engine.reply(ASK, GREEDY, listen=told.append))
    for moment in range(len(told)):
        engine._loaded.prompts.clear()
        with pytest.raises(Failure):
            list(engine.reply(ASK, GREEDY, listen=at_call(moment, fail)))
        assert same(list(engine.reply(ASK, GREEDY)), expected)


def test_failed_in_the_middle_of_the_model(engine, fresh, monkeypatch):
    """Some blocks have read a chunk, the others have not."""
    expected = fresh(ASK)
    layers = engine._loaded._mixture.model.layers
    kind, real = type(layers[1]), type(layers[1]).__call__
    for moment in range(0, 14, 2):
        engine._loaded.prompts.clear()
        calls = iter(range(10_000))

        def failing(self, *args, moment=moment, calls=calls, **kwargs):
            if next(calls) == moment + 1:
                raise Failure
            return real(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(kind, "__call__", failing)
            with pytest.raises(Failure):
                list(engine.reply(ASK, GREEDY))
        assert same(list(engine.reply(ASK, GREEDY)), expected)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_cut_by_the_limit(engine, fresh, most):
    limited = Settings(temperature=0.0, max_tokens=most)
    for messages in (ASK, ASK, ON):
        assert same(list(engine.reply(messages, limited)), fresh(messages, limited))


def test_left_in_the_middle(engine, fresh):
    expected = fresh(ASK)
    for taken in range(3):
        reply = engine.reply(ASK, GREEDY)
        for _ in range(taken):
            next(reply)
        reply.close()
        assert same(list(engine.reply(ASK, GREEDY)), expected)


def test_two_pages_take_turns(engine, fresh):
    for number in range(6):
        page, other = (ASK, OTHER) if number % 2 else (OTHER, ASK)
        list(engine.reply(page, GREEDY, at_call(number, lambda: True)))
        assert same(list(engine.reply(other, GREEDY)), fresh(other))
        assert same(list(engine.reply(page, GREEDY)), fresh(page))


def test_what_was_read_before_the_stop_is_not_read_again(engine, trained):
    engine.choose(trained("llama", specialists=2, learning_rate=0.05))
    told = []
    assert list(engine.reply(ASK, GREEDY, at_call(2, lambda: True))) == []
    list(engine.reply(ASK, GREEDY, listen=told.append))
    assert told[0].done == 2 * CHUNK
    assert {one.total for one in told} == {told[-1].done}


class TestKeep:
    """Filed under what the cache itself says it has read."""

    @pytest.fixture
    def mixture(self, tiny_folder, trained):
        from comigs_mlx.options import ExpertOptions

        return Mixture(load_base(str(tiny_folder())).model, ExpertOptions())

    @pytest.fixture
    def read(self, mixture):
        """(tokens) -> a cache that has read them."""
        import mlx.core as mx

        def make(tokens):
            cache = make_prompt_cache(mixture.model)
            if tokens:
                mx.eval(mixture(mx.array([tokens]), cache=cache)[0])
            return cache

        return make

    @pytest.mark.parametrize("count", range(6))
    def test_no_more_than_it_has_read(self, mixture, read, count):
        prompts, tokens = PromptCache(), [1, 2, 3, 4, 5]
        prompts.keep("key", tokens, read(tokens[:count]))
        cache, shared = prompts.take("key", [*tokens, 6], mixture.model)
        assert shared == count
        assert tokens_read(cache) == count

    def test_no_more_than_is_known(self, mixture, read):
        """It has read a token that nobody has been told of."""
        prompts = PromptCache()
        prompts.keep("key", [1, 2], read([1, 2, 3]))
        cache, shared = prompts.take("key", [1, 2, 9, 9], mixture.model)
        assert (shared, tokens_read(cache)) == (2, 2)

    def test_what_cannot_be_cut_is_not_used_for_the_same_prompt(self, mixture):
        """A sliding window that is full has forgotten what the last token follows."""
        prompts, cache = PromptCache(), [RotatingKVCache(4), RotatingKVCache(4)]
        one = mx.zeros((1, 1, 1, 8))
        for layer in cache:
            for _ in range(6):
                layer.update_and_fetch(one, one)
        assert not can_trim_prompt_cache(cache)
        prompts.keep("key", [1, 2, 3, 4, 5, 6], cache)
        found, shared = prompts.take("key", [1, 2, 3, 4, 5, 6], mixture.model)
        assert (shared, tokens_read(found)) == (0, 0)
        found, shared = prompts.take("key", [1, 2, 3, 4, 5, 6, 7], mixture.model)
        assert (shared, tokens_read(found)) == (6, 6)

    def test_layers_that_disagree(self, mixture, read):
        prompts, cache = PromptCache(), read([1, 2, 3])
        cache[1].trim(1)
        assert tokens_read(cache) is None
        prompts.keep("key", [1, 2, 3], cache)
        assert prompts.take("key", [1, 2, 3, 4], mixture.model)[1] == 0

    def test_not_for_another_speaker(self, mixture, read):
        prompts = PromptCache()
        prompts.keep("key", [1, 2, 3], read([1, 2, 3]))
        assert prompts.take("other", [1, 2, 3, 4], mixture.model)[1] == 0
        assert prompts.take("key", [1, 2, 3, 4], mixture.model)[1] == 3

    def test_what_is_taken_may_be_written_to(self, mixture, read):
        """And left in the middle: what is kept has read what it had read."""
        prompts = PromptCache()
        prompts.keep("key", [1, 2, 3], read([1, 2, 3]))
        cache, _ = prompts.take("key", [1, 2, 3, 4], mixture.model)
        first = np.array(cache[0].state[0])
        mx.eval(mixture(mx.array([[9, 9]]), cache=cache)[0])
        again, shared = prompts.take("key", [1, 2, 3, 4], mixture.model)
        assert (shared, tokens_read(again), tokens_read(cache)) == (3, 3, 5)
        assert np.array_equal(np.array(again[0].state[0]), first)

    def test_all_of_a_prompt_but_its_last_token(self, mixture, read):
        prompts = PromptCache()
        prompts.keep("key", [1, 2, 3], read([1, 2, 3]))
        cache, shared = prompts.take("key", [1, 2, 3], mixture.model)
        assert shared == tokens_read(cache) == 2

    def test_several_conversations(self, mixture, read):
        prompts = PromptCache()
        for first in range(CONVERSATIONS + 1):
            prompts.keep("key", [first, 2, 3], read([first, 2, 3]))
        shared = [
            prompts.take("key", [first, 2, 3, 4], mixture.model)[1]
            for first in range(CONVERSATIONS + 1)
        ]
        assert shared == [0, *[3] * CONVERSATIONS]

    def test_no_more_memory_than_one_large_conversation(self, mixture, read):
        """What is taken out and what is kept count together."""
        size = sum(layer.nbytes for layer in read([1, 2, 3]))
        prompts = PromptCache(most_bytes=2 * size)
        for first in (7, 8, 9):
            prompts.keep("key", [first, 2, 3], read([first, 2, 3]))
        assert prompts.take("key", [7, 2, 3, 4], mixture.model)[1] == 0
        assert prompts.take("key", [8, 2, 3, 4], mixture.model)[1] == 3
        assert prompts.take("key", [8, 2, 3, 4], mixture.model)[1] == 0  # 9 is younger
        large = PromptCache(most_bytes=1)
        large.keep("key", [1, 2, 3], read([1, 2, 3]))
        cache, shared = large.take("key", [1, 2, 3, 4], mixture.model)
        assert shared == tokens_read(cache) == 3
        assert large.take("key", [1, 2, 3, 4], mixture.model)[1] == 0


def test_caches_of_one_layer_are_counted_too():
    assert tokens_read([CacheList(KVCache(), KVCache())]) == 0
    assert tokens_read([object()]) is None
