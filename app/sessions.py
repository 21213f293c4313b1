"""What each open page has on the server, found by a secret name that only it knows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from comigs_mlx.conversations.disk import check_id

MOST = 64
"""Sessions in memory; the one not used for longest goes first."""


class Sessions:
    """Sessions by name.

    Args:
        make: Makes one, from its name.
        most: How many are kept.
        needed: Whether one must stay: it is at work.
    """

    def __init__(
        self,
        make: Callable[[str], Any],
        most: int = MOST,
        needed: Callable[[Any], bool] = lambda one: False,
    ):
        self._make, self._most, self._needed = make, most, needed
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def find(self, name: Any) -> Any:
        """The session of that name, made where it is not in memory.

        Args:
            name: 128 random bits in hexadecimal, which a page makes for itself.

        Raises:
            ConfigError: If it is no such name.
        """
        name = check_id(name)
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._make(name)
            self._kept.move_to_end(name)
            others = [n for n, one in self._kept.items() if not self._needed(one)]
            for old in others[: max(len(self._kept) - self._most, 0)]:
                if old != name:
                    del self._kept[old]
            return self._kept[name]

    def drop(self, name: Any) -> None:
        """Forget the session of that name."""
        with self._lock:
            self._kept.pop(name, None)

    def all(self) -> list[Any]:
        """Every session in memory."""
        with self._lock:
            return list(self._kept.values())
