"""The ServerApp: does what the process that keeps the federation's folder asks for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from comigs_mlx.federation.flower import local, records, secure_app
from comigs_mlx.federation.flower.packet import (
    SERVER_BYTES,
    Packet,
    pack,
    receive,
    send,
    unpack,
)

QUERY = "query"
"""Flower's name for the type of our plain messages."""

LOOK_SECONDS = 1.0

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator,unused-ignore]
def main(grid: Grid, context: Context) -> None:
    """Serve the process at the other end of the socket until it ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with local.connect(str(context.run_config["socket"])) as connection:
        mode = unpack(receive(connection, SERVER_BYTES))
        if mode.kind == "secure":
            ask = lambda packet: _ask(connection, packet)
            secure_app.run(grid, context, ask)
        carrier = Carrier(grid)
        while (asked := unpack(receive(connection, SERVER_BYTES))).kind != "end":
            send(connection, pack(carrier.do(asked)))


def _end_with_parent() -> None:
    """End this process when the SuperLink's has ended, which would leave it behind."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _ask(connection: Any, packet: Packet) -> Packet:
    send(connection, pack(packet))
    return unpack(receive(connection, SERVER_BYTES))


class Carrier:
    """Carries messages to the nodes of a grid, and their answers back.

    Args:
        grid: The nodes that are connected to the SuperLink.
    """

    def __init__(self, grid: Grid):
        self.grid = grid
        self._asked: dict[str, int] = {}  # message -> node

    def do(self, asked: Packet) -> Packet:
        """Do one thing that the server's process asks for."""
        known: dict[str, Callable[[Packet], Packet]] = {
            "nodes": self._nodes,
            "ask": self._ask,
            "answers": self._answers,
        }
        return known[asked.kind](asked)

    def _nodes(self, asked: Packet) -> Packet:
        del asked
        nodes = [[str(n.node_id), n.public_key.hex()] for n in self.grid.get_nodes()]
        return Packet({"kind": "nodes", "nodes": nodes})

    def _ask(self, asked: Packet) -> Packet:
        node, seconds = int(asked.about["node"]), float(asked.about["seconds"])
        content = records.record(asked.files["message"])
        message = Message(content, node, QUERY, ttl=seconds)
        for number in self.grid.push_messages([message]):
            if number is not None:
                self._asked[number] = node
        return Packet({"kind": "asked"})

    def _answers(self, asked: Packet) -> Packet:
        del asked
        answers: list[list[str]] = []
        files: dict[str, bytes] = {}
        for reply in self.grid.pull_messages(list(self._asked)) if self._asked else ():
            node = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if node is None:
                continue
            number, error = str(len(answers)), ""
            if reply.has_error():
                error = reply.error.reason or f"error {reply.error.code}"
            else:
                try:
                    files[number] = records.content(reply.content)
                except ValueError as problem:
                    error = str(problem)
            answers.append([str(node), error])
        return Packet({"kind": "answers", "answers": answers}, files)
