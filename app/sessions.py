"""What each open page has on the server, found by a secret name that only it knows."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from comigs_mlx.errors import ConfigError

MOST = 64
"""Sessions kept; the one not used for longest goes first."""

SECRET = re.compile(r"[0-9a-f]{32}")
"""Names of sessions."""


class Sessions:
    """Sessions by name.

    Args:
        make: Makes a new one.
        most: How many are kept.
    """

    def __init__(self, make: Callable[[], Any], most: int = MOST):
        self._make, self._most = make, most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def find(self, name: Any) -> Any:
        """The session of that name, a new one where it is not known (any more).

        Args:
            name: 128 random bits in hexadecimal, which a page makes for itself.

        Raises:
            ConfigError: If it is no such name.
        """
        if not isinstance(name, str) or not SECRET.fullmatch(name):
            raise ConfigError("This page is out of date: reload it.")
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._make()
            self._kept.move_to_end(name)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return self._kept[name]
