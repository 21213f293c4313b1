"""A run's own mixture of a round: what the simulation gives, and nothing else changes.

In a real federation it takes the contributions as they lie in the repository.
"""

import shutil
import typing

import numpy as np
import pytest
from safetensors.numpy import load_file

import tests.tiny as tiny
from comigs_mlx import sync, train
from comigs_mlx.data.batches import sampled_batches
from comigs_mlx.data.splits import load_split
from comigs_mlx.data.tokens import token_stream
from comigs_mlx.errors import FederationError
from comigs_mlx.federation import api
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.formats.contribution import prepare
from comigs_mlx.federation.formats.tensor_source import Arrays, digest
from comigs_mlx.federation.participant import (
    membership,
    mixing,
    pull_push,
    round_history,
)
from comigs_mlx.federation.participant.mixing import Mixing
from comigs_mlx.federation.participant.options import PullConfig
from comigs_mlx.federation.rounds import closing, repository, submit
from comigs_mlx.federation.rounds.verification import Have, Trust
from comigs_mlx.model import params
from comigs_mlx.options import SharingOptions
from comigs_mlx.runs import generalists
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.evaluation import Evaluator
from tests.federation import sharing
from tests.simulation.setting import Watched

ADAPTER = "generalist/adapters.safetensors"


@pytest.fixture(scope="module")
def simulated():
    """A round of the simulation's pcl, and what its participants started from."""
    watched = Watched("pcl")
    start = watched.made.federation.generalists()
    watched.round()
    return watched, start


def test_it_is_what_the_simulation_gives_of_the_same_contributions(exchange, simulated):
    watched, start = simulated
    manifest = watched.made.federation.manifest
    federation = repository.initialise(exchange(), manifest, start, 0.0)
    for name, values in watched.values.items():
        others = {"participant": name, "round": 1, "counters": watched.counters[name]}
        prepared = prepare(values, Arrays("", start), manifest, **others)
        submit.contribute(exchange(), federation, prepared)
    federation = repository.current(exchange(), Trust(have=Have(0, start)))
    closed = closing.close_if_due(exchange(), federation, 60.0)
    assert closed.round.contributors == ("ann", "bob", "cy")
    shared = repository.pull(exchange(), closed)
    for who in watched.made.host.participants:
        loss = watched.made.host.loss(who)
        parts = exchange(), closed, federation.trust
        mixed, name = mixing.own_or_shared(
            *parts, Mixing("by_loss", lambda loss=loss: loss), shared
        )
        assert name == "by_loss"
        own = who.generalists()
        assert own.keys() == mixed.keys()
        for tensor, array in own.items():
            assert np.array_equal(mixed[tensor], array), (who.name, tensor)
        assert any(not np.array_equal(shared[n], mixed[n]) for n in mixed)


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "pool")


@pytest.fixture
def closed(run, uri, do):
    """(flags of init) -> the runs of ann and ben after a round that both were in."""

    def made(**options):
        ann, ben = run("ann"), run("ben", seed=1)
        given = {"quorum": 2, "encoding": "fp32", "outsized": "off", **options}
        do("init", federation=uri, run=ann, **given)
        do("pull", federation=uri, run=ben, participant="ben")
        for name, folder, rate in (("ann", ann, 0.3), ("ben", ben, 0.002)):
            train.main(tiny.flags(run=folder, resume=True, steps=8, learning_rate=rate))
            do("push", federation=uri, run=folder, participant=name)
        return ann, ben

    return made


def files(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def contribution(uri, name):
    return load_file(f"{uri}/contributions/1/{name}/adapters.safetensors")


def loss_on_validation_text(run, tensors):
    """The loss of a run with other generalists, measured by hand."""
    base, mixture = RunFolder(run).load()
    own = params.flatten(params.select(mixture.model, params.ROLES))
    new = generalists.into_values(own, tensors)
    mixture.model.update(params.unflatten(new))
    config = (run / "config.yaml").read_text()
    data = next(s[6:] for s in config.splitlines() if s.startswith("data: "))
    samples, _ = load_split(data, "valid")
    stream, count = (
        token_stream(samples, base.tokenizer),
        tiny.TRAINING["valid_batches"],
    )
    return Evaluator(mixture).score(sampled_batches(stream, 16, 2, count)).loss


def mixed_by_hand(uri, run, names=("ann", "ben")):
    """The softmax of minus the losses, as the paper has it."""
    losses = [loss_on_validation_text(run, contribution(uri, n)) for n in names]
    trust = np.exp(-np.array(losses)) / np.exp(-np.array(losses)).sum()
    assert abs(trust[0] - 0.5) > 1e-3  # else it was the mean
    sent = [contribution(uri, name) for name in names]
    return {
        n: sum(w * s[n].astype("d") for w, s in zip(trust, sent, strict=True))
        for n in sent[0]
    }


class TestSyncPull:
    def test_the_run_gets_its_own_mixture_and_nothing_else_changes(
        self, closed, uri, do, tmp_path
    ):
        _, ben = closed()
        wanted = mixed_by_hand(uri, ben)
        before, pool = files(ben), files(tmp_path / "pool")
        pulled = do("pull", federation=uri, run=ben, personal="by_loss")
        assert (pulled["round"], pulled["changed"]) == (1, True)
        assert pulled["personal"] == "by_loss"
        assert files(tmp_path / "pool") == pool
        found = load_file(ben / ADAPTER)
        assert found.keys() == wanted.keys()
        for name, array in found.items():
            assert np.allclose(array, wanted[name], atol=1e-6), name
        shared = load_file(f"{uri}/adapters.safetensors")
        assert any(np.abs(found[n] - shared[n]).max() > 1e-6 for n in found)
        after = files(ben)
        same = {path for path in before if before[path] == after.get(path)}
        assert {"specialist/experts.safetensors", "router/router.safetensors"} <= same

    def test_what_the_run_remembers_of_the_round_is_the_shared_one(
        self, closed, uri, do
    ):
        _, ben = closed()
        do("pull", federation=uri, run=ben, personal="by_loss")
        shared = load_file(f"{uri}/adapters.safetensors")
        record = membership.read(ben)
        assert record.generalist == digest(shared)
        assert record.personal == "by_loss"
        kept = round_history.read(ben, 1, record.uri)
        assert all(np.array_equal(kept[n], shared[n]) for n in shared)

    def test_the_next_rounds_go_on_from_it(self, closed, uri, do):
        ann, ben = closed()
        for number in (2, 3):
            do("pull", federation=uri, run=ann)
            do("pull", federation=uri, run=ben, personal="by_loss")
            for name, folder in (("ann", ann), ("ben", ben)):
                train.main(tiny.flags(run=folder, resume=True, steps=6 + 2 * number))
                do("push", federation=uri, run=folder, participant=name)
        assert do("pull", federation=uri, run=ben, personal="by_loss")["round"] == 3

    def test_the_same_round_can_be_had_in_both_ways(self, closed, uri, do):
        _, ben = closed()
        pull = {"federation": uri, "run": ben}
        assert do("pull", **pull)["changed"]
        shared = load_file(ben / ADAPTER)
        assert do("pull", **pull, personal="by_loss")["changed"]
        assert not do("pull", **pull, personal="by_loss")["changed"]
        assert any(
            not np.array_equal(load_file(ben / ADAPTER)[n], shared[n]) for n in shared
        )
        assert do("pull", **pull)["changed"]
        assert all(
            np.array_equal(load_file(ben / ADAPTER)[n], shared[n]) for n in shared
        )

    def test_a_dry_run_says_so(self, closed, uri, cli):
        _, ben = closed()
        options = {"federation": uri, "run": ben, "personal": "by_loss"}
        _, out, _ = cli(sync.main, "pull", dry_run=True, **options)
        assert "would pull its own generalist, by_loss of the contributions" in out


class TestWhatCannotBeMixed:
    @pytest.fixture
    def wrong(self, cli, uri):
        """(run, flags) -> the one line of a pull that changes nothing."""

        def pull(run, **options):
            before = files(run)
            options = {"federation": uri, "run": run, "personal": "by_loss", **options}
            code, out, err = cli(sync.main, "pull", **options)
            assert (code, out) == (2, "")
            assert files(run) == before
            return err.splitlines()[-1]

        return pull

    def test_a_round_without_contributions(self, run, uri, do, wrong):
        do("init", federation=uri, run=run("ann"))
        told = wrong(run("ben", seed=1))
        assert told.endswith("round 0 has no contributions: pull without --personal"), (
            told
        )

    def test_contributions_that_are_gone(self, closed, uri, wrong, tmp_path):
        _, ben = closed()
        (tmp_path / "pool/contributions/1/ann/contribution.json").unlink()
        (tmp_path / "pool/contributions/1/ann/adapters.safetensors").unlink()
        told = wrong(ben, trust=True)
        assert "contributions to round 1 are not, or not all, in the reposi" in told
        assert told.endswith("pull without --personal")

    def test_who_comes_later_to_a_folder_without_a_history(self, closed, run, wrong):
        closed()
        told = wrong(run("eve", seed=2))
        assert "this run did not have round 0: pull without --personal" in told

    def test_an_aggregator_with_an_optimiser_of_its_own(self, closed, wrong):
        _, ben = closed(aggregator="fedavgm")
        told = wrong(ben)
        assert "fedavgm takes contributions as steps for an optimiser" in told
        assert told.endswith("drop --personal")

    def test_going_back_mixes_nothing(self, run, wrong):
        told = wrong(run("ann"), back=1)
        assert "--personal has no effect with --back" in told


@pytest.mark.parametrize("options", [PullConfig, SharingOptions])
def test_the_flag_offers_everything_that_there_is(options):
    """So does it of both commands."""
    offered = typing.get_type_hints(options)["personal"]
    literal = next(k for k in typing.get_args(offered) if k is not type(None))
    assert set(typing.get_args(literal)) == set(mixing.PERSONAL)


def test_a_name_of_a_later_version_is_told(closed, uri):
    _, ben = closed()
    with pytest.raises(FederationError, match="unknown --personal magic: choose by_lo"):
        api.pull(ben, open_exchange(uri), personal="magic")


def test_other_ranks_and_losses_that_are_no_numbers():
    current = Arrays("", sharing.tensors())
    wider = Arrays("ann", sharing.tensors(rank=3))
    same = Arrays("ben", sharing.tensors(seed=1))
    by_loss = mixing.PERSONAL["by_loss"]
    with pytest.raises(mixing.Unmixable, match="the contribution of ann has another"):
        by_loss([wider, same], current, lambda source: 1.0)
    with pytest.raises(mixing.Unmixable, match="no contribution gives a finite loss"):
        by_loss([same], current, lambda source: np.inf)
    other = Arrays("eve", sharing.tensors(seed=2))
    found = by_loss([same, other], current, lambda s: {"ben": 1.0}.get(s.name, np.inf))
    assert all(np.array_equal(found[n], same.read(n)) for n in found)


class TestTraining:
    @pytest.fixture
    def part(self, uri, tiny_folder, text_folder, tmp_path):
        """(name, flags) -> take part in two rounds; the lines that were told."""

        def made(name, **options):
            shape = {k: v for k, v in tiny.TRAINING.items() if k not in ("steps",)}
            given = {
                **shape,
                "model": tiny_folder(),
                "data": text_folder,
                "run": tmp_path / name,
                "federation": uri,
                "participant": name,
                "rounds": 2,
                "local_steps": 2,
                "wait": 0,
                "personal": "by_loss",
                **options,
            }
            train.main(tiny.flags(**given))
            return tmp_path / name

        return made

    @pytest.fixture
    def pool(self, uri, tiny_folder):
        """(flags of init) -> a federation on the tiny model."""

        def made(**options):
            given = {"model": tiny_folder(), "rank": 2, "encoding": "fp32", **options}
            sync.main(["init", *tiny.flags(federation=uri, **given)])

        return made

    def test_a_round_ends_with_its_own_mixture(self, pool, part, uri, do, capsys):
        pool(quorum=2, outsized="off")
        ann = part("ann", rounds=1)
        assert "round 0 has no contributions: this run gets what everybody" in (
            capsys.readouterr().err
        )
        ben = part("ben", rounds=1, seed=1, learning_rate=0.3)  # closes round 1
        record = membership.read(ben)
        assert (record.round, record.personal) == (1, "by_loss")
        found, shared = (
            load_file(ben / ADAPTER),
            load_file(f"{uri}/adapters.safetensors"),
        )
        assert any(np.abs(found[n] - shared[n]).max() > 1e-6 for n in found)
        wanted = mixed_by_hand(uri, ben)
        assert all(np.allclose(found[n], wanted[n], atol=1e-6) for n in found)
        do("pull", federation=uri, run=ann, personal="by_loss")
        train.main(tiny.flags(run=ann, resume=True, rounds=2))
        assert open_exchange(uri).snapshot().files.keys() >= {
            "contributions/2/ann/contribution.json"
        }

    @pytest.mark.parametrize("before", [True, False])
    def test_ended_around_the_mixing_and_resumed_it_is_the_same(
        self, pool, part, uri, tmp_path, monkeypatch, before
    ):
        """The round is closed and the run has no mixture of it, or has it untold."""
        pool(quorum=2, outsized="off")
        part("ann", rounds=1, learning_rate=0.3)
        copy = shutil.copytree(uri, tmp_path / "copy")
        whole = part("ben", rounds=1, seed=1)
        calls, mix, note = [], pull_push.own_or_shared, pull_push.remember

        def ended(*given):
            calls.append(given)
            if len(calls) == 2:  # the first one is of round 0
                raise RuntimeError("ended")
            return (mix if before else note)(*given)

        name = "own_or_shared" if before else "remember"
        again = {"run": tmp_path / "again", "federation": copy}
        with monkeypatch.context() as patch:
            patch.setattr(pull_push, name, ended)
            with pytest.raises(RuntimeError, match="ended"):
                part("ben", rounds=1, seed=1, **again)
        train.main(tiny.flags(run=tmp_path / "again", resume=True))
        found, wanted = (load_file(run / ADAPTER) for run in (again["run"], whole))
        assert all(np.array_equal(found[n], wanted[n]) for n in wanted)
        assert membership.read(again["run"]).personal == "by_loss"
        shared = load_file(copy / "adapters.safetensors")
        assert any(np.abs(found[n] - shared[n]).max() > 1e-6 for n in found)

    def test_an_aggregator_that_cannot_work_is_told_before_anything_begins(
        self, pool, part, tmp_path
    ):
        pool(aggregator="fedadam")
        with pytest.raises(Exception, match="fedadam takes contributions as steps"):
            part("ann")
        assert not (tmp_path / "ann").exists()
