"""What a run remembers: residuals, privacy spent, and whom it fits."""

import dataclasses
import json

import numpy as np
import pytest

import tests.federation.sharing as sharing
import tests.tiny as tiny
from comigs_mlx import sync
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.formats.contribution import Privacy
from comigs_mlx.federation.participant import membership, pull_push
from comigs_mlx.federation.participant.membership import Membership, Noise
from comigs_mlx.federation.rounds import repository

FIRST = sharing.tensors(blocks=1)
SPENT = Privacy(1.5, 1e-5, 0.1, 2.0)


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        np.array_equal(found[name], wanted[name]) for name in wanted
    )


@pytest.fixture
def pools(tmp_path, run):
    """A run of one federation, and another one of the same model."""
    ann = run("ann")
    for name in ("work", "family"):
        sync.main(["init", *tiny.flags(federation=tmp_path / name, run=ann)])
    return ann, open_exchange(tmp_path / "work"), open_exchange(tmp_path / "family")


def test_what_rounding_took_away_is_of_one_federation(tmp_path):
    membership.write(tmp_path, Membership("hf://a/work", contributed=3))
    membership.keep_residual(tmp_path, "hf://a/work", 3, {}, FIRST)
    assert same(membership.residual(tmp_path, "hf://a/work", 4), FIRST)
    assert membership.residual(tmp_path, "hf://a/work", 3) == {}
    assert membership.residual(tmp_path, "hf://a/family", 4) == {}
    assert membership.intended(tmp_path, "hf://a/work") == 3
    assert membership.intended(tmp_path, "hf://a/family") == 0
    assert membership.intended(tmp_path / "other", "hf://a/work") == 0


def test_what_was_never_sent_leaves_what_was_before_it(tmp_path):
    membership.write(tmp_path, Membership("hf://a/work", contributed=2))
    before = {name: array + 1 for name, array in FIRST.items()}
    membership.keep_residual(tmp_path, "hf://a/work", 3, before, FIRST)
    assert same(membership.residual(tmp_path, "hf://a/work", 3), before)
    assert same(membership.residual(tmp_path, "hf://a/work", 5), before)
    membership.write(tmp_path, Membership("hf://a/work", contributed=3))
    assert same(membership.residual(tmp_path, "hf://a/work", 5), FIRST)


def test_the_privacy_spent_goes_along_to_another_federation(pools):
    ann, work, family = pools
    pull_push.pull(ann, work, repository.current(work), "ann")
    spent = {"private": (Noise(2.0, 3),), "released": "a" * 64, "privacy": SPENT}
    record = dataclasses.replace(membership.read(ann), contributed=7, **spent)
    membership.write(ann, record)
    pull_push.pull(ann, family, repository.current(family), None)
    now = membership.read(ann)
    assert {name: getattr(now, name) for name in spent} == spent
    assert (now.contributed, now.participant) == (0, None)
    assert now.manifest == repository.current(family).manifest


def test_a_contribution_is_of_the_last_round_only(pools):
    ann, work, family = pools
    pull_push.pull(ann, work, repository.current(work), "ann")
    pull_push.prepare(ann, work, repository.current(work), "ann")
    text = "does not have the generalist of round"
    with pytest.raises(FederationError, match=text):
        pull_push.prepare(ann, family, repository.current(family), "ann")
    file = work.root / "round.json"
    closed = {**json.loads(file.read_text()), "round": 1}
    file.write_text(json.dumps(closed))
    with pytest.raises(FederationError, match=f"{text} 1"):
        pull_push.prepare(ann, work, repository.current(work), "ann")


def test_a_run_of_another_base_or_shape_does_not_fit():
    agreed = sharing.manifest(FIRST)
    experts, base = agreed.experts, agreed.base_model.fingerprint
    membership.check_fits(agreed, experts, base)
    with pytest.raises(FederationError, match="its base model is not the federation's"):
        membership.check_fits(agreed, experts, "sha256:" + "00" * 32)
    with pytest.raises(FederationError, match="rank is 3, the federation's 2"):
        membership.check_fits(agreed, dataclasses.replace(experts, rank=3), base)


def test_a_record_of_an_earlier_version_is_read(tmp_path):
    old = {"format_version": 1, "uri": "hf://a/work", "round": 3, "step": 9}
    (tmp_path / "federation.json").write_text(json.dumps(old))
    record = membership.read(tmp_path)
    assert (record.manifest, record.generalist, record.round) == (None, None, 3)
    membership.write(tmp_path, record)
    written = json.loads((tmp_path / "federation.json").read_text())
    assert not {"manifest", "generalist"} & written.keys()
    full = dataclasses.replace(
        record, manifest=sharing.manifest(FIRST, id="ab" * 16), generalist="1" * 64
    )
    membership.write(tmp_path, full)
    assert membership.read(tmp_path) == full
