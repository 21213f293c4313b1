"""The secure mode without Flower: what goes in, what comes out, and what is refused."""

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.flower import masking, secure
from comigs_mlx.federation.flower.node_folder import NodeFolder
from comigs_mlx.federation.flower.packet import Packet, unpack
from comigs_mlx.federation.flower.secure_server import SecureServer
from comigs_mlx.federation.flower.server import Limits
from comigs_mlx.federation.formats.manifest import AggregatorChoice, Member
from comigs_mlx.federation.rounds import closing, repository
from comigs_mlx.federation.rounds.verification import Have, Trust
from tests.federation.flower.taking_part import CURRENT, NAMES, Learner, Node, Time

SHAPES = {name: array.shape for name, array in CURRENT.items()}


def founded(folder, **agreed):
    agreed = sharing.manifest(CURRENT, **{"quorum": 3, "encoding": "fp32", **agreed})
    repository.initialise(folder, agreed, CURRENT, 0.0)
    return folder


@pytest.fixture
def pool(tmp_path):
    return founded(NodeFolder(tmp_path / "pool"))


@pytest.fixture
def said():
    return []


@pytest.fixture
def server(pool, said):
    limits = Limits(round=100.0, answer=50.0)
    return SecureServer(pool, 2, said.append, limits, 0.5, Time())


def begun(server, numbers=(1, 2, 3)):
    return server.answer(Packet({"kind": "round", "nodes": [*map(str, numbers)]}))


def closed(server, mean, numbers=(1, 2, 3)):
    about = {"kind": "mean", "nodes": [*map(str, numbers)], "failed": 0}
    return server.answer(Packet(about, {"mean": mean.astype(np.float32).tobytes()}))


def updates(nodes, told):
    """What each participant's trainer gives to be masked."""
    answers = [unpack(node(told.files["message"])) for node in nodes]
    return [np.frombuffer(answer.files["update"], np.float32) for answer in answers]


def test_flat_and_back_is_nothing_lost():
    values = secure.unflat(secure.flat(CURRENT), SHAPES)
    assert all(np.array_equal(values[name], CURRENT[name]) for name in CURRENT)
    with pytest.raises(FederationError, match="a sum of 5 values, expected"):
        secure.unflat(np.zeros(5, np.float32), SHAPES)


def test_the_mean_of_the_updates_is_what_a_folder_makes(pool, server, said, tmp_path):
    """With the exact mean in place of the masked one; two rounds."""
    folder = founded(NodeFolder(tmp_path / "folder"))
    nodes = [Node(Learner(name, i), "secure") for i, name in enumerate(NAMES)]
    others = [Learner(name, i) for i, name in enumerate(NAMES)]
    for _ in range(2):
        told = begun(server)
        assert told.kind == "go"
        mean = np.mean(np.array(updates(nodes, told), np.float64), 0)
        assert closed(server, mean).kind == "closed"
        for learner in others:
            learner.part(folder)
        closing.close_if_due(folder, repository.current(folder), 1.0)
        found, wanted = (
            repository.pull(place, repository.current(place))
            for place in (pool, folder)
        )
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], atol=3e-6)
    assert begun(server).kind == "over"
    last = repository.current(pool).round
    assert (last.round, last.contributors) == (2, (secure.SUM,))
    assert said[-1] == "round 2 is closed: the mean of 3"


def test_participants_verify_the_mean_that_the_server_published(pool, server):
    nodes = [Node(Learner(name, i), "secure") for i, name in enumerate(NAMES)]
    mean = np.mean(updates(nodes, begun(server)), 0)
    closed(server, mean)
    message = unpack(begun(server).files["message"])
    node = nodes[0]
    node.exchange.bring(message)
    trust = Trust(have=Have(0, CURRENT))
    repository.pull(node.exchange, repository.current(node.exchange, trust))
    other = {**message.files, "adapters.safetensors": message.files["federation.json"]}
    node.exchange.bring(Packet(message.about, other))
    with pytest.raises(FederationError):
        repository.pull(node.exchange, repository.current(node.exchange, trust))


def test_values_outside_the_range_are_told_to_their_participant(server):
    node = Node(Learner("ann", 0), "secure")
    told = begun(server)
    (update,) = updates([node], told)
    outside = int((np.abs(update) > 0.25).sum())
    assert outside
    server.widest = 0.25
    updates([node], begun(server))
    assert node.said[-1].startswith(
        f"{outside:,} of {update.size:,} values of this upd"
    )


def test_a_participant_of_the_secure_mode_gives_nothing_else(pool, server):
    node = Node(Learner("ann", 0), "secure")
    message = unpack(begun(server).files["message"])
    plain = Packet({**message.about, "mode": "plain"}, message.files)
    from comigs_mlx.federation.flower.packet import pack

    answer = unpack(node(pack(plain)))
    assert not answer.files
    assert "contributes in the mode secure" in answer.about["why"]


def test_too_few_make_no_round(server, said):
    assert begun(server, (1, 2)).kind == "wait"
    begun(server)
    mean = np.zeros(secure.flat(CURRENT).size)
    assert closed(server, mean, (1, 2)).kind == "again"
    assert closed(server, mean, (1, 1, 2)).kind == "again"
    assert said[-1] == "round 1 begins again: a sum of 2, expected 3"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_mean_that_is_no_mean_closes_nothing(pool, server, said, value):
    begun(server)
    assert closed(server, np.full(secure.flat(CURRENT).size, value)).kind == "again"
    assert said[-1].startswith("round 1 begins again: ")
    assert repository.current(pool).round.round == 0
    sound = np.full(secure.flat(CURRENT).size, 0.01)
    assert closed(server, sound).kind == "closed"


def test_waiting_is_bounded(server):
    assert begun(server, ()).kind == "wait"
    server.clock.pause(101.0)
    with pytest.raises(FederationError, match="0 of 3 nodes are connected; start the"):
        begun(server, ())


def test_a_round_that_fails_again_and_again_ends_it(server):
    for _ in range(5):
        assert begun(server).kind == "go"
    with pytest.raises(FederationError, match="round 1 failed 5 times"):
        begun(server)


@pytest.mark.parametrize(
    ("agreed", "told"),
    [
        ({"aggregator": AggregatorChoice("median")}, "the aggregator median cannot"),
        ({"participants": dict.fromkeys(NAMES, Member())}, "without --allow"),
        ({"quorum": 2}, "needs from 3 to 1000 participants"),
    ],
)
def test_federations_that_it_cannot_serve_are_refused(tmp_path, agreed, told):
    folder = founded(NodeFolder(tmp_path / "pool"), **agreed)
    with pytest.raises(FederationError, match=told) as refused:
        secure.check(repository.current(folder).manifest)
    assert "\n" not in str(refused.value)


def test_the_range_follows_the_last_mean():
    mean = np.array([0.001, -0.01], np.float32)
    assert secure.fitted(None, 0.25) == 0.25
    assert secure.fitted(mean, 0.25) == pytest.approx(0.08)
    assert secure.fitted(mean, 0.02) == 0.02
    assert secure.fitted(0 * mean, 0.25) == 0.25


class TestMasks:
    def test_are_of_the_whole_secret(self):
        """Flower's fold these four bytes and those of another secret to the same."""
        shapes = [(1,), (500,)]
        left, right = (
            masking.mask(seed, 2**32, shapes)
            for seed in (b"\1\0\0\0" + b"\0" * 28, b"\0" * 28 + b"\1\0\0\0")
        )
        assert not np.array_equal(left[1], right[1])

    def test_are_uniform_repeatable_and_of_the_shapes(self):
        (one, two), again = (
            masking.mask(b"s" * 32, 2**32, [(1,), (40, 50)]) for _ in range(2)
        )
        assert (one.shape, two.shape) == ((1,), (40, 50))
        assert np.array_equal(two, again[1])
        assert 0 <= two.min() < 2**25 < 2**31 < two.max() < 2**32
        assert abs(two.mean() / 2**31 - 1) < 0.1
        assert len(np.unique(two)) > 1990


SETUP = {
    "stage": "setup",
    "sample_num": 3,
    "share_num": 3,
    "threshold": 2,
    "clipping_range": 0.25,
    "target_range": 2**22,
    "mod_range": 2**32,
    "max_weight": 1.0,
}


class TestWhatAParticipantChecks:
    @pytest.mark.parametrize(
        "settings",
        [
            SETUP,
            {"stage": "share_keys", "1": [b"", b""]},
            {"stage": "collect_masked_vectors"},
            {"stage": "unmask", "active_nids": [1, 2], "dead_nids": [3]},
        ],
    )
    def test_usual_settings_pass(self, settings):
        masking.check(settings)

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({}, "no message of secure aggregation"),
            ({"stage": "fit"}, "no message of secure aggregation"),
            ({**SETUP, "sample_num": 2}, "among 2 nodes"),
            ({**SETUP, "threshold": 1}, "1 of 3 shares open a mask"),
            ({**SETUP, "share_num": 4, "threshold": 2}, "2 of 4 shares"),
            ({**SETUP, "share_num": 2}, "2 of 2 shares"),
            ({**SETUP, "target_range": 4}, "4 steps modulo"),
            ({**SETUP, "mod_range": 2**24}, "modulo 16777216"),
            ({**SETUP, "max_weight": 9.0}, "another weight"),
            ({**SETUP, "sample_num": True}, "settings of secure aggregation are missi"),
            (
                {"stage": "unmask", "active_nids": [1, 2], "dead_nids": [2]},
                "to have answered and not to have",
            ),
        ],
    )
    def test_what_would_show_an_update_is_refused(self, settings, told):
        with pytest.raises(FederationError, match=told):
            masking.check(settings)

    def test_plain_messages_are_none_of_its_business(self):
        message = type("Message", (), {"metadata": type("M", (), {})()})()
        message.metadata.message_type = "query"
        passed = masking.guarded(lambda *given: given)
        assert passed(message, 1, 2) == (message, 1, 2)
