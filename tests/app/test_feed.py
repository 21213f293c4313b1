"""A page gets every event once, whatever it asks."""

from app.feed import MOST_EVENTS, Feed


def texts(answer):
    return [event["text"] for event in answer["events"]]


def test_only_what_is_new_is_sent():
    feed = Feed()
    for text in "abc":
        feed.add("user", text=text)
    assert texts(feed.changes(0, 0)) == ["a", "b", "c"]
    assert texts(feed.changes(0, 2)) == ["c"]
    assert texts(feed.changes(0, 3)) == []


def test_after_a_change_pages_begin_anew():
    feed = Feed()
    for text in "abc":
        feed.add("user", text=text)
    feed.show([{"kind": "user", "text": "a"}])
    answer = feed.changes(0, 3)
    assert (answer["epoch"], texts(answer)) == (1, ["a"])


def test_a_successor_is_new_to_every_page():
    feed = Feed()
    feed.add("user", text="a")
    feed.show([])
    assert feed.successor().changes(1, 0)["epoch"] == 2


def test_much_comes_in_parts_and_says_that_there_is_more():
    feed = Feed()
    for i in range(MOST_EVENTS + 1):
        feed.add("user", text=str(i))
    first = feed.changes(0, 0)
    assert first["active"]
    rest = feed.changes(0, len(first["events"]))
    assert texts(rest) == [str(MOST_EVENTS)]
    assert not rest["active"]


def test_a_page_cannot_ask_for_what_is_before_the_first():
    feed = Feed()
    feed.add("user", text="a")
    assert texts(feed.changes(0, -5)) == ["a"]
