"""The server's rounds, with participants that answer in place of Flower's nodes."""

import json
import os

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.flower import server as serving
from comigs_mlx.federation.flower.node_folder import NodeFolder, account_of
from comigs_mlx.federation.flower.packet import Packet, pack, unpack
from comigs_mlx.federation.flower.server import Limits, Server
from comigs_mlx.federation.formats.manifest import AggregatorChoice, Member
from comigs_mlx.federation.rounds import closing, repository
from tests.federation.flower.taking_part import (
    CURRENT,
    NAMES,
    Grid,
    Learner,
    Node,
    Time,
)

LIMITS = Limits(round=100.0, answer=100.0, look=5.0)


def founded(folder, **agreed):
    agreed = sharing.manifest(CURRENT, **{"quorum": 3, **agreed})
    repository.initialise(folder, agreed, CURRENT, 0.0)
    return folder


@pytest.fixture
def pool(tmp_path):
    """(manifest's entries) -> the folder of a new federation."""
    return lambda **agreed: founded(NodeFolder(tmp_path / "pool"), **agreed)


def nodes(names=NAMES):
    """Node by number, of a participant each."""
    return {11 + i: Node(Learner(name, i)) for i, name in enumerate(names)}


def aged(folder, seconds):
    """Let the last round of a folder be closed so long ago."""
    file = folder.root / "round.json"
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


@pytest.fixture
def lead():
    """(folder, grid, rounds) -> what the server said."""

    def led(folder, grid, rounds=1, limits=LIMITS):
        said, time = [], Time()
        server = Server(folder, grid, said.append, limits, time.pause, time)
        try:
            server.run(rounds)
        except FederationError as error:
            said.append(f"error: {error}")
        return said

    return led


def contents(folder):
    """All files but README.md, where the folder's name is; of round.json, no time."""
    there = folder.snapshot()
    files = {p: folder.read(p, there.revision, 10**7) for p in there.files}
    files["round.json"] = {**json.loads(files["round.json"]), "closed_at": None}
    return {path: content for path, content in files.items() if path != "README.md"}


@pytest.mark.parametrize(
    ("aggregator", "encoding"),
    [
        (AggregatorChoice(), "fp16"),
        (AggregatorChoice("fedavgm", {"momentum": 0.9}), "fp32"),
        (AggregatorChoice("median"), "int8"),
    ],
    ids=["mean", "fedavgm", "median"],
)
def test_it_makes_what_a_folder_makes_bit_for_bit(
    tmp_path, pool, lead, aggregator, encoding
):
    agreed = {"aggregator": aggregator, "encoding": encoding, "id": "5" * 32}
    other = founded(FolderExchange(tmp_path / "folder"), **agreed)
    learners = [Learner(name, i) for i, name in enumerate(NAMES)]
    for _ in range(2):
        for learner in learners:
            learner.part(other)
        closing.close_if_due(other, repository.current(other), 1.0)
    folder = pool(**agreed)
    said = lead(folder, Grid(nodes()), rounds=2)
    assert said[-1] == "round 2 is closed: ann, ben, cy"
    assert contents(folder) == contents(other)


def test_everybody_has_the_last_round_in_the_end(pool, lead):
    folder, grid = pool(), Grid(nodes())
    lead(folder, grid, rounds=2)
    last = repository.current(folder).round
    for node in grid.by_number.values():
        assert node.exchange.over
        assert repository.current(node.exchange).round == last


class TestRefused:
    """What one participant sends ends no round, and it is told why."""

    def lead_with(self, lead, pool, spoil, quorum=2, **agreed):
        """Eve's contribution is spoiled; ann's and ben's close the round."""
        folder, by_number = pool(quorum=quorum, **agreed), nodes(("ann", "ben"))
        eve = Node(Learner("eve", 9))
        told = []

        def spoiling(content):
            packet = unpack(content)
            if packet.kind == "refused":
                told.append(packet.about["why"])
            answer = eve(content)
            given = unpack(answer)
            return spoil(given) if given.kind == "contribution" else answer

        # Eve answers first, whatever the order of the others.
        grid = Grid({5: spoiling, **by_number})
        said = lead(folder, grid)
        assert said[-1].startswith("round 1 is closed: ann, ben")
        last = repository.current(folder).round
        assert "eve" not in last.contributors
        assert not [p for p in folder.snapshot().files if "/eve/" in p]
        refused = [line for line in said if "is refused" in line]
        assert refused == [f"round 1: node 5 is refused: {why}" for why in told]
        return told

    @pytest.mark.parametrize(
        ("spoil", "told"),
        [
            (lambda p: b"rubbish", "these bytes are no packet of comigs_mlx"),
            (lambda p: b"x" * 10**6, "1000000 bytes, at most"),
            (lambda p: pack(Packet(p.about, {})), "is missing"),
            (
                lambda p: pack(Packet(p.about, {**p.files, "more": b"x"})),
                "unknown file 'more'",
            ),
            (
                lambda p: pack(
                    Packet(p.about, {**p.files, "adapters.safetensors": b"x" * 200})
                ),
                "is not the file that was contributed",
            ),
            (
                lambda p: pack(Packet({**p.about, "participant": "ben"}, p.files)),
                "participant 'eve', expected 'ben'",
            ),
            (
                lambda p: pack(Packet({**p.about, "participant": "../x"}, p.files)),
                "no name that we could write",
            ),
            (
                lambda p: pack(Packet({**p.about, "participant": 5}, p.files)),
                "no name that we could write",
            ),
        ],
        ids=[
            "rubbish", "too large", "nothing", "more", "other values", "other name",
            "no name", "number",
        ],
    )  # fmt: skip
    def test_in_words(self, lead, pool, spoil, told):
        (why,) = self.lead_with(lead, pool, spoil)
        assert told in why

    def test_the_bytes_of_another_federation(self, lead, pool, tmp_path):
        other = founded(NodeFolder(tmp_path / "other"), id="7" * 32)
        Learner("eve", 9).part(other)
        there, place = other.snapshot(), "contributions/1/eve/"
        files = {
            path.removeprefix(place): other.read(path, there.revision, 10**6)
            for path in there.files
            if path.startswith(place)
        }
        spoil = lambda p: pack(Packet(p.about, files))
        (why,) = self.lead_with(lead, pool, spoil, id="8" * 32)
        assert "for another federation (77777777) than this (88888888)" in why

    def test_one_that_is_not_signed(self, lead, pool):
        members = {"ann": Member(), "ben": Member(), "eve": Member(public_key="1" * 64)}
        given = {"participants": members}
        (why,) = self.lead_with(lead, pool, pack, **given)
        assert why == "not signed"

    def test_one_that_is_not_listed(self, lead, pool):
        members = {"ann": Member(), "ben": Member()}
        folder, grid = pool(quorum=2, participants=members), Grid(nodes())
        forged = Node(Learner("cy", 2))

        def forge(content):  # cy's own program would refuse
            if unpack(content).kind != "round":
                return forged.resident.reply(content)
            about = {"kind": "contribution", "participant": "cy", "round": 1}
            return pack(Packet(about, {"contribution.json": b"{}"}))

        grid.by_number[13] = forge
        said = lead(folder, grid)
        assert not any("cy," in line for line in said)
        assert said[-1] == "round 1 is closed: ann, ben"


def test_who_is_refused_is_not_asked_again_in_the_round(pool, lead):
    folder, grid = pool(quorum=2), Grid(nodes(("ann",)))
    grid.by_number[5] = lambda content: b"rubbish"
    said = lead(folder, grid)
    assert sum("node 5 is refused" in line for line in said) == 1
    assert [p.kind for node, p in grid.asked if node == 5] == ["round", "refused"]


class TestNames:
    def test_a_name_belongs_to_the_key_that_first_used_it(self, pool, lead):
        folder, by_number = pool(quorum=2), nodes(("ann", "ben"))
        keys = {number: account_of(bytes([number])) for number in (11, 12, 13)}
        lead(folder, Grid(by_number, keys))
        owners = repository.current(folder).round.owners
        assert owners == {"ann": keys[11], "ben": keys[12]}
        # In the next round, somebody with another key says that she is ann.
        eve = Node(Learner("ann", 5))
        eve.learner.have = by_number[11].learner.have
        said = lead(folder, Grid({13: eve, **by_number}, keys))
        assert any(
            f"node 13 is refused: committed by '{keys[13][:36]}" in line
            and f"the name belongs to {keys[11]}" in line
            for line in said
        )
        assert said[-1] == "round 2 is closed: ann, ben"
        # And everybody finds the same, who computes the round again.
        for node in by_number.values():
            repository.pull(
                node.exchange,
                repository.current(
                    node.exchange,
                    repository.Trust(have=node.learner.have),
                ),
            )

    def test_without_keys_a_name_is_held_for_its_round(self, pool, lead):
        folder, by_number = pool(quorum=2), nodes(("ann", "ben"))
        eve = Node(Learner("ann", 5))
        grid = Grid({11: by_number[11], 13: eve, 12: by_number[12]})
        said = lead(folder, grid)
        assert (
            "round 1: node 13 is refused: another node has contributed as ann alr"
            in ("\n".join(said))
        )
        assert repository.current(folder).round.owners == {}

    def test_one_node_has_one_name(self, pool, lead):
        folder, two = pool(quorum=2, deadline_seconds=50.0), nodes(("ann", "ben"))
        turns = iter([two[11]])
        grid = Grid({11: lambda content: next(turns, two[12])(content)})
        said, time = [], Time()
        server = Server(folder, grid, said.append, LIMITS, time.pause, time)
        server._given = Forgetful()
        aged(folder, 3600)
        server.run(1)
        assert any("this node has contributed as ann already" in line for line in said)

    def test_a_supernode_started_anew_may_send_the_same_again(self, pool, lead):
        folder, by_number = pool(), nodes()
        grid = Grid({11: by_number[11], 99: by_number[11], 12: by_number[12]})
        grid.by_number[13] = by_number[13]
        said = lead(folder, grid)
        assert sum("round 1: ann, " in line for line in said) == 2
        assert said[-1] == "round 1 is closed: ann, ben, cy"


class Forgetful(dict):
    """What makes a server ask a node again at once."""

    def get(self, key, default=None):
        return default


class TestWaiting:
    def test_a_deadline_closes_with_those_who_are_there(self, pool, lead):
        folder, by_number = pool(deadline_seconds=60.0), nodes()
        by_number[13] = lambda content: None
        aged(folder, 3600)
        said = lead(folder, Grid(by_number))
        assert "round 1: 2 of 3 contributions (ann, ben) after 35 s" in "\n".join(said)
        assert said[-1] == "round 1 is closed: ann, ben"

    def test_without_one_the_server_ends_and_goes_on_with_them(self, pool, lead):
        folder, by_number = pool(), nodes()
        silent = {**by_number, 13: lambda content: None}
        said = lead(folder, Grid(silent))
        assert said[-1].startswith(
            "error: round 1: 2 of 3 contributions (ann, ben) after 105 s, 3 nodes are "
            "connected, waiting 100 s at most: start the server again"
        )
        said = lead(folder, Grid({13: by_number[13]}))
        assert said[-1] == "round 1 is closed: ann, ben, cy"

    def test_nobody_is_waited_for_within_bounds(self, pool, lead):
        said = lead(pool(), Grid({}))
        assert said[-1].startswith("error: round 1: 0 of 3 contributions (none)")

    def test_a_late_contribution_is_told_and_its_sender_goes_on(self, pool, lead):
        folder, by_number = pool(quorum=2), nodes()
        slow, kept = by_number[13], []

        def late(content):
            packet = unpack(content)
            if packet.kind == "round" and not packet.about.get("over") and not kept:
                kept.append(slow(content))  # of round 1, sent when 2 is asked for
                return None
            return slow(content)

        grid = Grid({**by_number, 13: late})
        said, time = [], Time()
        server = Server(folder, grid, said.append, LIMITS, time.pause, time)
        first = server._closed(repository.current(folder))
        server._take(first, serving.Answer(13, kept[0]))
        assert said[-1] == "node 13 comes late: it is for round 1, 2 is open"
        server.run(1)
        assert said[-1].startswith("round 2 is closed: ann, ben")

    def test_who_has_no_contribution_yet_is_asked_again(self, pool, lead):
        folder, by_number = pool(), nodes()
        left = [2]

        def training(content):
            left[0] -= 1
            if left[0] >= 0:
                return pack(Packet({"kind": "nothing", "why": "still training"}))
            return by_number[13](content)

        grid = Grid({**by_number, 13: training})
        said = lead(folder, grid)
        assert said.count("node 13: still training") == 2
        assert said[-1] == "round 1 is closed: ann, ben, cy"
        rounds = [packet for node, packet in grid.asked if node == 11]
        assert len(rounds) == 2  # the round, and the end

    def test_an_error_of_flower_is_told_and_tried_again(self, pool, lead):
        folder, by_number = pool(), nodes()
        answers = iter(["the ClientApp\nraised"])
        flaky = lambda content: next(answers, None) or by_number[13](content)
        said = lead(folder, Grid({**by_number, 13: flaky}))
        assert "node 13: the ClientApp\\nraised" in said
        assert said[-1] == "round 1 is closed: ann, ben, cy"

    def test_who_comes_and_goes_is_told(self, pool):
        folder, by_number = pool(), nodes()
        grid, said, time = Grid({11: by_number[11]}), [], Time()

        def pause(seconds):
            time.pause(seconds)
            if time.now == 10:
                grid.by_number |= {12: by_number[12], 13: by_number[13]}
                del grid.by_number[11]

        server = Server(folder, grid, said.append, LIMITS, pause, time)
        server.run(1)
        assert "node 11 is connected; 1 in all" in said
        assert "node 11 has gone; 2 in all" in said
        assert said[-1] == "round 1 is closed: ann, ben, cy"


def test_values_are_those_of_numpy(pool, lead):
    """The mean of what was contributed, by arithmetic that is not ours."""
    folder = pool(encoding="fp32")
    lead(folder, Grid(nodes()))
    found = repository.pull(folder, repository.current(folder))
    current = {name: CURRENT[name] for name in sorted(CURRENT)}  # as they are drawn
    for name, start in current.items():
        given = [sharing.moved(current, 100 + i)[name] for i in range(3)]
        np.testing.assert_allclose(found[name], np.mean(given, 0), atol=1e-6)
        assert not np.array_equal(found[name], start)
