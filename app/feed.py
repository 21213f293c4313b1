"""What a page is shown, as a list of events that only grows.

A page remembers how many events it has and asks for those after them, so that nothing
is sent twice and nothing is lost, however slow the page is (Gradio merges what it
pushes to a slow page). Where something shown before must go (edit, retry, clear), the
epoch changes, and pages begin anew.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

Event = dict[str, Any]

MOST_EVENTS = 1000
"""Events in one answer to a page; the rest follows with the next."""


class Feed:
    """Events of one conversation; used from several threads.

    Args:
        epoch: Higher than that of the feed it replaces.
    """

    def __init__(self, epoch: int = 0) -> None:
        self._lock = threading.Lock()
        self._events: list[Any] = []
        self._epoch = epoch
        self._active = False
        self._status = ""

    @staticmethod
    def fresh() -> Feed:
        """A feed that no page can mistake for one it knows, as after a restart."""
        return Feed(random.getrandbits(31))

    def add(self, kind: str, **values: Any) -> None:
        """Append one event of JSON values."""
        with self._lock:
            self._events.append({"kind": kind, **values})

    def append(self, event: Any) -> None:
        """Append one event that is kept small: its method `event` makes the values."""
        with self._lock:
            self._events.append(event)

    def show(self, events: Sequence[Any]) -> None:
        """Put other events in the place of all; pages begin anew."""
        with self._lock:
            self._events = list(events)
            self._epoch += 1

    def tell(self, status: str, active: bool) -> None:
        """Set the line below the conversation.

        Args:
            status: For people.
            active: Whether more is coming.
        """
        with self._lock:
            self._status, self._active = status, active

    def successor(self) -> Feed:
        """An empty feed that takes this one's place."""
        with self._lock:
            return Feed(self._epoch + 1)

    @property
    def active(self) -> bool:
        """Whether more is coming."""
        with self._lock:
            return self._active

    def changes(self, epoch: int, since: int) -> dict[str, Any]:
        """What a page lacks that has `since` events of `epoch`.

        Returns:
            `epoch`, `events` to append (after clearing, where the epoch is another),
            `active` and `status`.
        """
        with self._lock:
            start = max(since, 0) if epoch == self._epoch else 0
            events = [
                one if isinstance(one, dict) else one.event()
                for one in self._events[start : start + MOST_EVENTS]
            ]
            more = start + len(events) < len(self._events)
            return {
                "epoch": self._epoch,
                "events": events,
                "active": self._active or more,
                "status": self._status,
            }
