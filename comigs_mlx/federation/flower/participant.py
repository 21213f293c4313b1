"""A participant's process: trains one run, and answers the server's messages
meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.federation.exchanges.base import Exchange, Say
from comigs_mlx.federation.flower.local import Answering, private_folder
from comigs_mlx.federation.flower.resident import Mode, Resident
from comigs_mlx.federation.flower.served import ServedExchange
from comigs_mlx.federation.participant.training import Connection, RoundEnd
from comigs_mlx.federation.rounds.repository import Federation

LAST_SECONDS = 10.0
"""How long the answer that is being made at the end may take."""


def by_the_server(exchange: Exchange, federation: Federation, now: float) -> None:
    """Close no round: the server does."""
    del exchange, federation, now


@contextlib.contextmanager
def answering(
    exchange: ServedExchange, mode: Mode, say: Say
) -> Iterator[tuple[Path, Connection]]:
    """Answer the server's messages for the time of a block.

    Args:
        exchange: The repository as the run sees it.
        mode: How the participant contributes.
        say: It is told what the server says of the contributions.

    Yields:
        The private folder with the socket, and the connection to train through.
    """
    round_end = RoundEnd(by_the_server, exchange.pause, lambda: exchange.over)
    resident = Resident(exchange, mode, say)
    with private_folder() as folder:
        answers = Answering(folder, resident.reply)
        answers.start()
        try:
            yield folder, Connection(exchange, round_end)
        finally:
            answers.stop(LAST_SECONDS)
