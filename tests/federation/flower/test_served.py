"""The repository as a participant of a server sees it."""

import dataclasses
import threading

import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import (
    Moved,
    NotAllowed,
    TooLarge,
    Unreachable,
)
from comigs_mlx.federation.flower import state
from comigs_mlx.federation.flower.node_folder import NodeFolder
from comigs_mlx.federation.flower.packet import Packet, pack, unpack
from comigs_mlx.federation.flower.resident import Resident
from comigs_mlx.federation.flower.served import ServedExchange
from comigs_mlx.federation.rounds import closing, repository, verification
from comigs_mlx.federation.rounds.verification import Have, Trust, Unverified
from tests.federation.flower.taking_part import CURRENT, NAMES, Learner

MANIFEST, ADAPTER = "federation.json", "adapters.safetensors"


@pytest.fixture
def pool(tmp_path):
    """A federation in a folder whose first round three have made."""
    folder = NodeFolder(tmp_path / "pool")
    agreed = sharing.manifest(CURRENT, quorum=3)
    repository.initialise(folder, agreed, CURRENT, 0.0)
    for seed, name in enumerate(NAMES):
        Learner(name, seed).part(folder)
    assert closing.close_if_due(folder, repository.current(folder), 1.0) is not None
    return folder


@pytest.fixture
def served():
    return ServedExchange("flower://server:1", patience=0.01)


def packed(pool, **about):
    return state.packed(pool, repository.current(pool), about)


def changed(packet, **files):
    renamed = {path.replace("_json", ".json"): files[path] for path in files}
    return dataclasses.replace(packet, files={**packet.files, **renamed})


def test_it_has_all_that_a_participant_verifies(pool, served):
    served.bring(packed(pool))
    have = Trust(have=Have(0, CURRENT))
    there = repository.current(served, have)
    assert there.round == repository.current(pool).round
    pulled = repository.pull(served, there)
    assert verification.judge(served, there, have, pulled) == (None, True)


@pytest.mark.parametrize("which", [ADAPTER, "contributions/1/ben/" + ADAPTER])
def test_a_server_that_changes_values_is_refused(pool, served, which):
    packet = packed(pool)
    other = packet.files["contributions/1/ann/" + ADAPTER]
    served.bring(changed(packet, **{which: other}))
    there = repository.current(served, Trust(have=Have(0, CURRENT)))
    with pytest.raises((Unverified, FederationError)):
        repository.pull(served, there)


def test_contributions_that_nobody_computes_again_are_only_listed(
    pool, served, monkeypatch
):
    monkeypatch.setattr(state, "MOST_CONTRIBUTIONS", 2)
    packet = packed(pool)
    assert not [path for path in packet.files if path.startswith("contributions/")]
    served.bring(packet)
    there, path = served.snapshot(), f"contributions/1/ann/{ADAPTER}"
    assert there.files[path].size == len(
        pool.read(path, pool.snapshot().revision, 9999)
    )
    with pytest.raises(TooLarge, match="did not send it along"):
        served.read(path, there.revision, 10**9)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda p: Packet(p.about, {}), "holds no federation"),
        (lambda p: changed(p, federation_json=b"{}"), "federation.json"),
        (lambda p: changed(p, round_json=b"[]"), "round.json"),
        (lambda p: Packet({**p.about, "authors": []}, p.files), "a wrong form"),
        (lambda p: Packet({**p.about, "listed": {"a": "b"}}, p.files), "a wrong form"),
        (lambda p: Packet({**p.about, "listed": {"../a": 1}}, p.files), "a wrong form"),
    ],
)
def test_a_message_without_a_federation_changes_nothing(pool, served, spoil, told):
    served.bring(packed(pool))
    before = served.snapshot()
    with pytest.raises(FederationError, match=told):
        served.bring(spoil(packed(pool)))
    assert served.snapshot() == before
    assert served.round == 1


def test_before_the_first_message_it_is_out_of_reach(served):
    with pytest.raises(
        Unreachable, match="no message of the server of flower://server"
    ):
        served.snapshot()


def test_a_supernode_that_has_ended_is_not_waited_for(served):
    def ended():
        raise FederationError("flower-supernode has ended (1): no route")

    served.check, served.patience = ended, 1000.0
    with pytest.raises(FederationError, match="has ended"):
        served.snapshot()


def test_a_newer_message_makes_what_was_read_old(pool, served):
    served.bring(packed(pool))
    old = served.snapshot().revision
    Learner("ann", 1).part(pool)
    Learner("ben", 1).part(pool)
    Learner("cy", 1).part(pool)
    closing.close_if_due(pool, repository.current(pool), 2.0)
    served.bring(packed(pool))
    with pytest.raises(Moved):
        served.read(MANIFEST, old, 10**6)
    assert served.round == 2


@pytest.mark.parametrize(
    "changes",
    [
        {MANIFEST: b"{}"},
        {"contributions/2/ann/a": b"", MANIFEST: None},
        {"contributions/2/ann/a": b"", "contributions/2/ben/a": b""},
        {"contributions/2/accepted.json": b"{}"},
    ],
)
def test_only_a_contribution_can_be_written(pool, served, changes):
    served.bring(packed(pool))
    with pytest.raises(NotAllowed, match="only the server"):
        served.commit(changes, "m")


def test_a_pause_ends_with_a_message(pool, served):
    served.bring(packed(pool))
    served.snapshot()
    later = threading.Timer(0.05, lambda: served.bring(newer))
    Learner("ann", 1).part(pool)
    newer = changed(packed(pool), extra=b"new")
    later.start()
    served.pause(60.0)
    later.join()
    assert "extra" in served.snapshot().files
    served.pause(0.0)


class TestResident:
    @pytest.fixture
    def said(self):
        return []

    @pytest.fixture
    def resident(self, served, said):
        return Resident(served, "plain", said.append)

    def ask(self, resident, packet):
        return unpack(resident.reply(pack(packet)))

    def test_the_answer_is_the_contribution_byte_for_byte(self, pool, served, resident):
        message = packed(pool, mode="plain", seconds=60.0)
        served.bring(message)
        Learner("ann", 1).part(served)
        answer = self.ask(resident, message)
        about = {"kind": "contribution", "participant": "ann", "round": 2}
        assert answer.about == about
        Learner("ann", 1).part(pool)
        there, folder = pool.snapshot(), "contributions/2/ann/"
        assert {folder + name: content for name, content in answer.files.items()} == {
            path: pool.read(path, there.revision, 10**6)
            for path in there.files
            if path.startswith(folder)
        }
        # Asked once more, after an answer that was lost, it is the same.
        assert self.ask(resident, message) == answer

    def test_while_it_trains_it_says_so(self, pool, resident):
        answer = self.ask(resident, packed(pool, mode="plain", seconds=0.01))
        assert answer.about == {"kind": "nothing", "why": "still training for round 2"}

    @pytest.mark.parametrize(
        ("about", "told"),
        [
            ({"mode": "secure"}, "contributes in the mode plain, the server asks for"),
            ({}, "contributes in the mode plain"),
            ({"mode": "plain"}, "a message without seconds"),
            ({"mode": "plain", "seconds": -1}, "a message without seconds"),
            ({"mode": "plain", "seconds": True}, "a message without seconds"),
            ({"kind": "other"}, "an unknown message 'other'"),
        ],
    )
    def test_other_questions_are_refused_in_words(self, pool, resident, about, told):
        answer = self.ask(resident, packed(pool, **about))
        assert told in answer.about["why"]

    def test_rubbish_is_refused_in_words(self, resident):
        answer = unpack(resident.reply(b"rubbish"))
        assert answer.about["why"] == "these bytes are no packet of comigs_mlx"

    def test_a_failure_of_the_trainer_is_an_answer(self, pool, served, resident):
        served.answer = lambda round, seconds: 1 / 0
        answer = self.ask(resident, packed(pool, mode="plain", seconds=9))
        assert answer.about["why"].startswith("the trainer has failed: ZeroDivision")

    def test_a_refusal_is_said_and_made_visible(self, resident, said):
        why = "not signed \x1b[31m"
        self.ask(resident, Packet({"kind": "refused", "why": why}))
        assert said == [
            "the server refuses the contribution of this run: not signed \\x1b[31m"
        ]

    def test_the_end_is_noted(self, pool, served, resident):
        answer = self.ask(resident, packed(pool, mode="plain", seconds=9, over=True))
        assert (answer.about["why"], served.over) == ("over", True)
