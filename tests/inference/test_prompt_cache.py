"""The key of what was read comes from the cache itself, never from what was asked."""

from types import SimpleNamespace

import pytest

from comigs_mlx.inference.prompt_cache import PromptCache


def layer(offset):
    return SimpleNamespace(offset=offset)


class Model:
    """Makes caches that have read nothing."""

    def make_cache(self):
        return [layer(0), layer(0)]


def kept(cache, tokens=(1, 2, 3, 4)):
    prompts = PromptCache()
    prompts.keep("key", tokens, cache)
    taken, read = prompts.take("key", [1, 2, 3, 4, 5], Model())
    return taken is cache, read


@pytest.mark.parametrize("read", [1, 2, 3, 4])
def test_is_filed_under_what_it_has_read(read):
    assert kept([layer(read), layer(read)]) == (True, read)


def test_parts_of_a_layer_count():
    assert kept([SimpleNamespace(caches=[layer(2), layer(2)]), layer(2)]) == (True, 2)


def test_layers_without_a_count_follow_the_others():
    """A recurrent layer beside one with attention, say."""
    assert kept([SimpleNamespace(state=None), layer(3)]) == (True, 3)


@pytest.mark.parametrize(
    "cache",
    [
        [layer(0), layer(0)],  # nothing
        [layer(2), layer(3)],  # interrupted between two layers
        [layer(5), layer(5)],  # more than was given
        [SimpleNamespace(state=None)],  # nobody knows
        [],
    ],
)
def test_what_is_not_known_is_not_kept(cache):
    assert kept(cache) == (False, 0)


def test_for_somebody_else_it_is_of_no_use():
    prompts, cache = PromptCache(), [layer(2), layer(2)]
    prompts.keep("key", [1, 2], cache)
    taken, read = prompts.take("other key", [1, 2, 3], Model())
    assert (taken is cache, read) == (False, 0)
