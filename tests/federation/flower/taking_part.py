"""Participants and a grid without Flower: what the server asks is answered in place."""

from __future__ import annotations

import tests.federation.sharing as sharing
from comigs_mlx.federation.flower.packet import unpack
from comigs_mlx.federation.flower.resident import Resident
from comigs_mlx.federation.flower.served import ServedExchange
from comigs_mlx.federation.flower.server import Answer
from comigs_mlx.federation.formats import contribution
from comigs_mlx.federation.formats.tensor_source import Arrays, digest
from comigs_mlx.federation.rounds import repository, submit
from comigs_mlx.federation.rounds.verification import Have, Trust

CURRENT = sharing.tensors(seed=7)
NAMES = ("ann", "ben", "cy")


class Learner:
    """One participant: it pulls with verification, "trains", and contributes.

    Args:
        name: Its name.
        seed: Of what it learns.
    """

    def __init__(self, name, seed):
        self.name, self.seed, self.have = name, seed, None

    def part(self, exchange, key=None):
        """Its part in the open round."""
        federation = repository.current(exchange, Trust(have=self.have))
        start = repository.pull(exchange, federation)
        self.have = Have(federation.round.round, start)
        number = federation.open_round
        prepared = contribution.prepare(
            sharing.moved(start, 100 * number + self.seed),
            Arrays("", start),
            federation.manifest,
            participant=self.name,
            round=number,
            counters={"tokens": 1000 + self.seed, "steps": 10},
            start=digest(start),
        )
        submit.contribute(exchange, federation, prepared)


class Node:
    """The process of a participant, as the server's messages meet it.

    Args:
        learner: Who takes part.
        mode: How it contributes.
    """

    def __init__(self, learner, mode="plain"):
        self.learner, self.said = learner, []
        self.exchange = ServedExchange("flower://server:1", patience=0.01)
        self.resident = Resident(self.exchange, mode, self.said.append)

    def __call__(self, message):
        packet = unpack(message)
        if packet.kind == "round":
            self.exchange.bring(packet)
            if not self.exchange.over:
                self.learner.part(self.exchange)
        return self.resident.reply(message)


class Grid:
    """The nodes of a server: each is what makes the bytes of its answer.

    An answer of None never comes, and text is an error of Flower's.
    """

    def __init__(self, nodes, accounts=None):
        self.by_number, self.accounts = dict(nodes), accounts or {}
        self.asked, self.waiting = [], []

    def nodes(self):
        return {number: self.accounts.get(number) for number in self.by_number}

    def ask(self, node, content, seconds):
        assert seconds > 0
        self.asked.append((node, unpack(content)))
        self.waiting.append((node, content))

    def answers(self):
        waiting, self.waiting = self.waiting, []
        made = []
        for node, content in waiting:
            answer = self.by_number[node](content) if node in self.by_number else None
            if isinstance(answer, str):
                made.append(Answer(node, None, answer))
            elif answer is not None:
                made.append(Answer(node, answer))
        return made


class Time:
    """A clock that only pauses move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds
