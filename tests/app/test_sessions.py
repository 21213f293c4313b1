"""Nobody gets at somebody else's conversation."""

import pytest

from app.sessions import Sessions
from comigs_mlx.errors import ConfigError


def test_sessions_are_found_by_their_name_alone():
    sessions = Sessions(lambda name: [name])
    mine, theirs = sessions.find("a" * 32), sessions.find("b" * 32)
    assert sessions.find("a" * 32) is mine
    assert theirs is not mine


@pytest.mark.parametrize("name", ["", "guess", "a" * 31, "A" * 32, None, 3, ["a" * 32]])
def test_names_that_could_be_guessed_are_refused(name):
    with pytest.raises(ConfigError, match="reload it"):
        Sessions(list).find(name)


def test_the_oldest_session_goes_first():
    sessions = Sessions(lambda name: [name], most=2)
    first, second = sessions.find("1" * 32), sessions.find("2" * 32)
    sessions.find("1" * 32)
    sessions.find("3" * 32)
    assert sessions.find("1" * 32) is first
    assert sessions.find("2" * 32) is not second


def test_one_at_work_stays():
    sessions = Sessions(lambda name: [name], most=1, needed=lambda one: "busy" in one)
    first = sessions.find("1" * 32)
    first.append("busy")
    sessions.find("2" * 32)
    sessions.find("3" * 32)
    assert sessions.find("1" * 32) is first
    assert len(sessions.all()) <= 2


def test_a_dropped_one_is_made_anew():
    sessions = Sessions(lambda name: [name])
    first = sessions.find("1" * 32)
    sessions.drop("1" * 32)
    assert sessions.find("1" * 32) is not first
