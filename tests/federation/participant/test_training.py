"""`train --federation`: rounds alone, with others, late, out of reach, and killed."""

import contextlib
import dataclasses
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import comigs_mlx.train as train
import tests.federation.sharing as sharing
import tests.processes as processes
import tests.tiny as tiny
from comigs_mlx import sync
from comigs_mlx.config import read_yaml
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Unreachable
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.participant import membership, privacy, pull_push
from comigs_mlx.federation.participant.join import join
from comigs_mlx.federation.participant.training import Participation
from comigs_mlx.federation.rounds import closing, repository, submit
from comigs_mlx.federation.rounds.verification import Untrusted
from comigs_mlx.options import train_config
from comigs_mlx.runs.session import session
from comigs_mlx.training.records import Exchanged, Step
from tests.federation.conftest import TOKENS

ROOT = Path(__file__).parents[3]
KILLED = ROOT / "tests" / "runs" / "killed.py"

SHORT = {"report_every": 2, "valid_batches": 2, "save_every": 2, "keep": 2}
ROUNDS = {"rounds": 3, "local_steps": 2, "wait": 0}


def founded(uri, **options):
    """A new federation in that folder."""
    given = {"rank": 2, "encoding": "fp32", **options}
    sync.main(["init", *tiny.flags(federation=uri, **given)])
    return uri


@pytest.fixture
def pool(tmp_path, tiny_folder):
    """(flags of init) -> the folder of a new federation on the tiny model."""

    def made(**options):
        uri = tmp_path / f"pool-{len(list(tmp_path.iterdir()))}"
        return founded(uri, **{"model": tiny_folder(), **options})

    return made


def sharing_flags(uri, name="ann", **options):
    """The options of a training that takes part, by name."""
    shape = {k: v for k, v in tiny.TRAINING.items() if k not in ("steps", "rank")}
    sharing = {"federation": uri, "participant": name, **ROUNDS}
    return {**shape, **SHORT, **sharing, **options}


@pytest.fixture
def flags(tiny_folder, text_folder, tmp_path):
    """(federation, participant) -> the options of its training, by name."""

    def made(uri, name="ann", **options):
        paths = {"model": tiny_folder(), "data": text_folder, "run": tmp_path / name}
        return sharing_flags(uri, name, **{**paths, **options})

    return made


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, text_folder, tmp_path_factory):
    """Federation, run and events of a training of ann's that nothing disturbs."""
    root, model = tmp_path_factory.mktemp("undisturbed"), tiny_folder()
    uri, run = founded(root / "pool", model=model), root / "run"
    options = sharing_flags(uri, model=model, data=text_folder, run=run)
    return uri, run, take_part(options)


def take_part(options, exchange=None, meanwhile=lambda event: None):
    """Train in this process; what happened. `meanwhile` sees each event."""
    argv = tiny.flags(**options)
    config, events = train_config(argv), []
    exchange = exchange or open_exchange(config.sharing.federation, patience=1)
    given = {"rank"} & options.keys() | {"model"}
    config, check = join(config, given, exchange)
    with session(config, lambda text: None, check) as opened:
        part = Participation(exchange, opened, config, lambda text: None)
        for event in part.run(lambda: False):
            events.append(event)
            meanwhile(event)
    return events


def exchanges(events):
    return [(e.event, e.round) for e in events if isinstance(e, Exchanged)]


def shared(uri):
    return load_file(uri / "adapters.safetensors")


def values(run):
    return {
        name: load_file(run / name)
        for name in (
            "generalist/adapters.safetensors",
            "specialist/experts.safetensors",
            "router/router.safetensors",
        )
    }


def equal(found, wanted):
    return found.keys() == wanted.keys() and all(
        np.array_equal(found[name], wanted[name]) for name in wanted
    )


def last_round(uri):
    return json.loads((uri / "round.json").read_text())


def written(run):
    return [
        json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()
    ]


def test_alone_and_unrounded_it_is_local_training(pool, flags, tmp_path, text_folder):
    """With one participant and fp32 every pull brings back what was pushed."""
    uri = pool()
    options = flags(uri)
    train.main(tiny.flags(**options))
    alone = {k: v for k, v in options.items() if k not in ROUNDS}
    alone = {k: v for k, v in alone.items() if k not in ("federation", "participant")}
    alone |= {"run": tmp_path / "alone", "steps": 6, "rank": 2}
    train.main(tiny.flags(**alone))
    found, wanted = values(options["run"]), values(alone["run"])
    assert all(equal(found[name], wanted[name]) for name in wanted)
    assert last_round(uri)["round"] == 3
    assert last_round(uri)["contributors"] == ["ann"]
    assert equal(shared(uri), wanted["generalist/adapters.safetensors"])


def test_rounds_are_told_and_written_with_their_bytes(pool, flags, cli):
    uri = pool()
    options = flags(uri)
    code, out, err = cli(train.main, **options)
    assert (code, out) == (0, f"{options['run']}\n")
    assert "step 6  has the generalist of round 3 (of ann)" in err
    told = written(options["run"])
    kinds = [(line["event"], line["round"], line["step"]) for line in told]
    wanted = [("pulled", 0, 0)]
    for round in (1, 2, 3):
        wanted += [("contributed", round, 2 * round), ("pulled", round, 2 * round)]
    assert kinds == wanted
    size = (uri / "adapters.safetensors").stat().st_size
    sent = [line["bytes_sent"] for line in told if line["event"] == "contributed"]
    assert all(size <= one < size + 4096 for one in sent)
    assert all(line["valid_loss"] > 0 for line in told if line["event"] != "pulled")


def test_a_new_run_takes_base_and_shape_from_the_federation(pool, flags):
    uri = pool(rank=4, alpha=10, num_layers=1, no_attention_lora=True)
    options = flags(uri, rounds=1)
    train.main(tiny.flags(**options))
    saved = read_yaml(options["run"] / "config.yaml")
    shape = [saved[n] for n in ("rank", "num_layers", "attention_lora", "generalists")]
    assert shape == [4, 1, False, 1]
    assert saved["steps"] == 2
    assert last_round(uri)["contributors"] == ["ann"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rank": 3}, "this run does not fit the federation: rank is 3, the federa"),
        ({"participant": "Ann"}, "--participant: 'Ann' is not a participant's name"),
        ({"steps": 7}, "--steps 7 is not --rounds 3 x --local-steps 2: drop --steps"),
        ({"rounds": 0}, "--rounds 0 must be at least 1"),
        ({"participant": "eve"}, "eve is not among the participants"),
    ],
)
def test_what_cannot_work_changes_nothing(pool, flags, cli, changed, told):
    uri = pool(allow="ann,ben")
    options = flags(uri, **changed)
    code, out, err = cli(train.main, **options)
    assert (code, out) == (2, "")
    assert told in err.splitlines()[-1]
    assert not options["run"].exists()
    assert last_round(uri)["round"] == 0


def test_without_a_name_or_a_federation(pool, flags, cli, tmp_path):
    options = flags(pool())
    nameless = {k: v for k, v in options.items() if k != "participant"}
    assert "--participant NAME is missing" in cli(train.main, **nameless)[2]
    options["federation"] = tmp_path / "nowhere"
    code, _, err = cli(train.main, **options)
    assert code == 2
    assert str(tmp_path / "nowhere") in err.splitlines()[-1]
    assert not options["run"].exists()


def test_routers_meet_new_generalists(pool, flags):
    uri = pool()
    options = flags(uri, router_refresh=3, router_every=100)
    events = take_part(options)
    kinds = [e.level if isinstance(e, Step) else e.event for e in events if told(e)]
    a_round = ["expert", "expert", "contributed", "pulled"]
    fresh = ["router"] * 3
    assert kinds == ["pulled", *fresh, *a_round, *fresh, *a_round, *fresh, *a_round]


def told(event):
    return isinstance(event, (Step, Exchanged))


def contribute_as(uri, name, run):
    """Somebody else trains nothing, contributes, and closes the round."""
    exchange = open_exchange(uri)
    pull_push.pull(run, exchange, repository.current(exchange), name)
    federation = repository.current(exchange)
    prepared, _ = pull_push.prepare(run, exchange, federation, name)
    submit.contribute(exchange, federation, prepared)
    return closing.close_if_due(exchange, repository.current(exchange), 0.0)


def contribute_other(uri, name):
    """Somebody contributes other values than anybody has, and closes the round."""
    exchange = open_exchange(uri)
    federation = repository.current(exchange)
    start = repository.pull(exchange, federation)
    made = sharing.contributed(
        sharing.moved(start, 7, 0.01),
        start,
        federation.manifest,
        name,
        federation.open_round,
    )
    submit.contribute(exchange, federation, made)
    assert closing.close_if_due(exchange, repository.current(exchange), 0.0)


@pytest.mark.parametrize("missed", [1, 5])
def test_rounds_that_close_meanwhile_are_missed_and_the_next_one_counts(
    pool, flags, trained, tmp_path, missed
):
    uri = pool()
    other = shutil.copytree(trained(), tmp_path / "other")
    first = iter([1])

    def meanwhile(event):
        if isinstance(event, Step) and event.index == 1 and next(first, None):
            for _ in range(missed):
                assert contribute_as(uri, "ben", other)

    events = take_part(flags(uri), meanwhile=meanwhile)
    assert exchanges(events) == [
        ("pulled", 0),
        ("late", 1),
        ("pulled", missed),
        ("contributed", missed + 1),
        ("pulled", missed + 1),
        ("contributed", missed + 2),
        ("pulled", missed + 2),
    ]
    history = [one["contributors"] for one in last_round(uri)["history"]]
    assert history == [*[["ben"]] * missed, ["ann"], ["ann"]]


class Flaky:
    """An exchange that cannot be reached for some calls, before or after they did."""

    def __init__(self, inner, name, calls, after=False):
        self.inner, self.uri, self.name = inner, inner.uri, name
        self.calls, self.after, self.seen = set(calls), after, 0

    def __getattr__(self, name):
        real = getattr(self.inner, name)
        return self._spoilt(real) if name == self.name else real

    def _spoilt(self, real):
        def call(*args, **kwargs):
            self.seen += 1
            down = self.seen in self.calls
            result = None if down and not self.after else real(*args, **kwargs)
            if down:
                raise Unreachable("the line is down: try again")
            return result

        return call


def test_out_of_reach_training_goes_on_and_the_contribution_waits(pool, flags):
    uri = pool(quorum=1)
    # Each commit is one contribution or one closing: the first contribution fails.
    flaky = Flaky(open_exchange(uri), "commit", [1])
    events = take_part(flags(uri), flaky)
    assert exchanges(events) == [
        ("pulled", 0),
        ("offline", 1),
        ("contributed", 1),
        ("pulled", 1),
        ("contributed", 2),
        ("pulled", 2),
    ]
    assert last_round(uri)["round"] == 2
    assert [e.index for e in events if isinstance(e, Step) and e.level == "expert"] == [
        *range(1, 7)
    ]


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6])
def test_an_answer_lost_after_a_commit_changes_nothing(pool, flags, undisturbed, call):
    plain, _, wanted = undisturbed
    spoilt = pool()
    flaky = Flaky(open_exchange(spoilt), "commit", [call], True)
    found = take_part(flags(spoilt), flaky)
    assert exchanges(found) == exchanges(wanted)
    assert equal(shared(spoilt), shared(plain))
    assert last_round(spoilt)["round"] == 3


def test_offline_until_its_end_it_is_sent_by_the_next_start(pool, flags):
    uri = pool()
    options = flags(uri, rounds=1)
    down = Flaky(open_exchange(uri), "commit", range(1, 100))
    assert exchanges(take_part(options, down)) == [("pulled", 0), ("offline", 1)]
    assert last_round(uri)["round"] == 0
    run = {"run": options["run"], "resume": True}
    assert exchanges(take_part(run)) == [("contributed", 1), ("pulled", 1)]
    trained = values(options["run"])["generalist/adapters.safetensors"]
    assert equal(shared(uri), trained)


def test_a_run_that_may_not_contribute_ends_with_its_work_saved(pool, flags):
    uri = pool()

    def forbid(event):
        if isinstance(event, Step) and event.index == 2:
            manifest = json.loads((uri / "federation.json").read_text())
            manifest["participants"] = {"ben": {}}
            (uri / "federation.json").write_text(json.dumps(manifest))

    options = flags(uri)
    with pytest.raises(FederationError, match="ann is not among the participants"):
        take_part(options, meanwhile=forbid)
    assert (options["run"] / "state" / "step-0000002").is_dir()


def test_with_noise_the_privacy_spent_is_told_and_counts_every_round(pool, flags):
    uri = pool()
    options = flags(uri, dp_clip=0.1, dp_noise=2.0)
    events = [e for e in take_part(options) if isinstance(e, Exchanged)]
    notes = [e.note for e in events if e.event == "contributed"]
    spent = [float(note.split()[1]) for note in notes]
    assert spent == [round(privacy.epsilon([(2.0, n)], 1e-5), 2) for n in (1, 2, 3)]
    assert "epsilon" in notes[0]


@pytest.mark.parametrize(
    "moment",
    [
        ("Level", "step", 3),
        ("os", "replace", 9),
        ("os", "replace", 14),
        ("os", "replace", 22),
        ("os", "rename", 4),
        ("os", "rename", 7),
    ],
)
def test_killed_and_resumed_no_contribution_is_lost_or_made_twice(
    pool, flags, undisturbed, moment
):
    plain, whole, _ = undisturbed
    uri = pool()
    options = flags(uri)
    count = [moment[0], moment[1], str(moment[2])]
    with processes.start(KILLED, *count, *tiny.flags(**options)) as process:
        _, err = process.communicate(timeout=100)
        assert process.returncode == -signal.SIGKILL, err
    found = options["run"]
    begun = (found / "config.yaml").exists()
    train.main(tiny.flags(**({"run": found, "resume": True} if begun else options)))
    for name, tensors in values(whole).items():
        assert equal(values(found)[name], tensors), name
    assert equal(shared(uri), shared(plain))
    closed = [(c["round"], c["contributors"]) for c in last_round(uri)["history"]]
    assert closed == [(1, ["ann"]), (2, ["ann"]), (3, ["ann"])]


def test_three_processes_share_three_rounds_over_the_hub(
    hub, repo, flags, tiny_folder, on_hub
):
    uri, names = f"hf://{repo}", ("ann", "ben", "eve")
    exchange = on_hub("ann")
    origin = pull_push.of_model(
        str(tiny_folder()), train_config(["--rank", "2"]).experts, 0, print
    )
    repository.initialise(exchange, agreed(origin, 3), origin.generalists, 0.0)
    hub.store.repos[repo].rights |= {"ben": "write", "eve": "write"}
    hub.commit_seconds, hub.lag = 0.3, 0.3  # it takes one commit at a time, and lags
    time.sleep(hub.lag)  # until it shows the federation
    with contextlib.ExitStack() as started:
        for process in [
            started.enter_context(
                processes.start(
                    "-m",
                    "comigs_mlx.train",
                    *tiny.flags(**flags(uri, name, wait=120, seed=len(name))),
                    HF_ENDPOINT=hub.url,
                    HF_TOKEN=TOKENS[name],
                )
            )
            for name in names
        ]:
            _, err = process.communicate(timeout=150)
            assert process.returncode == 0, err
    found = repository.current(exchange).round
    closed = [(one.round, one.contributors) for one in found.history]
    assert closed == [(number, names) for number in (1, 2, 3)]
    last = repository.pull(exchange, repository.current(exchange))
    for name in names:
        run = flags(uri, name)["run"]
        assert equal(load_file(run / "generalist" / "adapters.safetensors"), last)
        assert [line["event"] for line in written(run)].count("contributed") == 3
    closings = [c for c in hub.store.repos[repo].commits.values() if "Close" in c.title]
    assert len(closings) == 3


def agreed(origin, quorum):
    from comigs_mlx.federation.formats.manifest import Manifest, cap
    from comigs_mlx.federation.formats.tensor_source import Arrays, shapes

    most = cap(shapes(Arrays("", origin.generalists)))
    return Manifest(origin.base, origin.experts, most, quorum=quorum)


def rewrite(uri, **changes):
    file = uri / "federation.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusals(events):
    return [e.note for e in events if isinstance(e, Exchanged) and e.event == "refused"]


def untrusting(options, **given):
    """Train to the end; events, and what is raised then."""
    events, argv = [], tiny.flags(**options)
    config = train_config(argv)
    exchange = open_exchange(config.sharing.federation, patience=1)
    config, check = join(config, {"model"}, exchange)
    with session(config, lambda text: None, check) as opened:
        part = Participation(exchange, opened, config, lambda text: None)
        try:
            for event in part.run(lambda: False):
                events.append(event)
                given["meanwhile"](event)
        except Untrusted as error:
            return events, str(error)
    return events, "nothing was refused"


def test_a_changed_manifest_is_told_and_training_goes_on_without(pool, flags, cli):
    uri = pool()

    def loosen(event):
        if isinstance(event, Step) and event.index == 3:
            rewrite(uri, norm_action="off")

    options = flags(uri)
    events, text = untrusting(options, meanwhile=loosen)
    assert exchanges(events) == [
        *[("pulled", 0), ("contributed", 1), ("pulled", 1)],
        *[("refused", 2), ("refused", 2)],
    ]
    assert "norm_action 'clip' -> 'off'" in text
    assert "--trust" in text
    assert set(refusals(events)) == {text}
    assert (options["run"] / "state" / "step-0000006").is_dir()  # all steps were made
    run = {"run": options["run"], "resume": True}
    code, _, err = cli(train.main, **run)
    assert (code, "norm_action" in err, "Traceback" in err) == (2, True, False)
    assert last_round(uri)["round"] == 1
    code, _, err = cli(train.main, **run, trust=True)
    assert (code, "accepted: federation.json" in err) == (0, True)
    assert last_round(uri)["round"] == 2
    assert read_yaml(options["run"] / "config.yaml")["trust"] is False
    rewrite(uri, norm_action="refuse")
    assert cli(train.main, **run)[0] == 2


def test_a_forged_round_is_not_pulled(pool, flags):
    """Eve may write to the folder: she closes round 2 with what she likes."""
    uri = pool(quorum=2)

    def forge(event):
        if isinstance(event, Step) and event.index == 2:
            tensors = {name: 7 + 0 * array for name, array in shared(uri).items()}
            save_file(tensors, uri / "adapters.safetensors", {"format": "mlx"})
            closed = {**last_round(uri), "round": 1, "contributors": ["ann", "ben"]}
            closed.pop("generalist", None)
            (uri / "round.json").write_text(json.dumps(closed))

    options = flags(uri)
    events, text = untrusting(options, meanwhile=forge)
    assert ("pulled", 1) not in exchanges(events)
    assert "no contribution of ann, ben is there" in text
    found = values(options["run"])["generalist/adapters.safetensors"]
    assert not any((array == 7).all() for array in found.values())


@pytest.mark.parametrize("encoding", ["int8", "fp16"])
def test_killed_between_the_commit_and_its_note(pool, flags, monkeypatch, encoding):
    """The round closes before the run comes back: it ends as if nothing had been."""
    plain, uri = pool(encoding=encoding), pool(encoding=encoding)
    wanted = flags(plain, name="plain", participant="ann")
    take_part(wanted)
    options = flags(uri)
    with monkeypatch.context() as killed:
        killed.setattr(pull_push, "contributed", stop_here)
        with pytest.raises(KeyboardInterrupt):
            take_part(options)
    exchange = open_exchange(uri)
    assert closing.close_if_due(exchange, repository.current(exchange), 0.0)
    events = take_part({"run": options["run"], "resume": True})
    assert exchanges(events)[:2] == [("contributed", 1), ("pulled", 1)]
    assert last_round(uri)["round"] == 3
    for name, tensors in values(wanted["run"]).items():
        assert equal(values(options["run"])[name], tensors), name


def stop_here(*args):
    raise KeyboardInterrupt


def test_what_rounding_took_away_is_kept_where_a_round_closed_without(
    pool, flags, trained, tmp_path
):
    """Intended and never sent, a contribution takes nothing from the next one."""
    uri = pool(encoding="int8", quorum=1)
    run = shutil.copytree(trained(), tmp_path / "run")
    exchange = open_exchange(uri)
    pull_push.pull(run, exchange, repository.current(exchange), "ann")
    now = repository.current(exchange)
    prepared, before = pull_push.prepare(run, exchange, now, "ann")
    assert before == {}
    left = {name: array + np.float32(1) for name, array in prepared.residual.items()}
    prepared = dataclasses.replace(prepared, residual=left)
    with pull_push.intended(run, exchange.uri, prepared, before):
        pass  # killed
    again, before = pull_push.prepare(run, exchange, now, "ann")
    assert (before, again.files()) == ({}, prepared.files())
    assert membership.residual(run, exchange.uri, 2) == {}
    assert not pull_push.counted(run, now, exchange.uri, "ann")
    pull_push.contributed(run, exchange.uri, "ann", prepared, before)
    assert equal(membership.residual(run, exchange.uri, 2), prepared.residual)
    assert membership.residual(run, exchange.uri, 1) == {}


def test_what_is_pulled_reaches_the_running_trainer(pool, flags):
    """The step after a pull starts from the mean, not from what was contributed."""
    uri = pool(quorum=2)
    seen = {}

    def meanwhile(event):
        if isinstance(event, Exchanged) and event.event == "contributed":
            seen["own"] = running()
            contribute_other(uri, "ben")
        if isinstance(event, Exchanged) and event.event == "pulled":
            seen[event.round] = running()

    argv = tiny.flags(**flags(uri, wait=5, rounds=1))
    config = train_config(argv)
    exchange = open_exchange(uri, patience=1)
    config, check = join(config, {"model"}, exchange)
    with session(config, lambda text: None, check) as opened:
        running = lambda: _generalist(opened)
        part = Participation(exchange, opened, config, lambda text: None)
        for event in part.run(lambda: False):
            meanwhile(event)
    assert last_round(uri)["contributors"] == ["ann", "ben"]
    assert equal(seen[1], shared(uri))
    assert not equal(seen["own"], seen[1])


def _generalist(opened):
    """The generalist of the model that is being trained, as an adapter has it."""
    from comigs_mlx.model import params

    found = {}
    parameters = opened.trainer.mixture.model.parameters()
    for path, array in dict(params.flatten(parameters)).items():
        if ".generalist." in path:
            name = path.replace(".generalist.", ".")
            found[name] = np.array(array)[0] if array.ndim == 3 else np.array(array)
    return found
