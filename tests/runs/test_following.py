"""`train` and `evaluate` on several machines: one result, one voice, one end."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import tests.ranks as ranks
import tests.tiny as tiny
from comigs_mlx import evaluate, sync, train
from comigs_mlx.errors import ModelError
from comigs_mlx.runs import following
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training import checkpoint

KILLED = Path(__file__).with_name("killed.py")
CLOSE = 1e-5
GIVEN = {"batch_size": 3}
"""Every test trains the same, so that one process trains it once for all."""


@pytest.fixture
def options(tiny_folder, text_folder, tmp_path):
    paths = {"model": tiny_folder(), "data": text_folder, "run": tmp_path / "run"}
    return {**tiny.TRAINING, **paths, **GIVEN}


def program(options, *before):
    return [*(before or ("-m", "comigs_mlx.train")), *tiny.flags(**options)]


def dying(options, count, name="_made", of="Level"):
    """A training that gets a signal in place of its COUNTth call."""
    return program(options, KILLED, of, name, count)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def numbers(run):
    """What was measured while training and at the end, without times."""
    found = lines(run / "metrics.jsonl") + lines(run / "held_out.jsonl")
    for report in found:
        for name in ("tokens_per_second", "peak_memory_gb"):
            report.pop(name, None)
        report |= report.pop("expert_share", {})
    return found


def close(run, whole):
    """Whether two runs have seen the same tokens and have the same losses."""
    found, expected = numbers(run), numbers(whole)
    assert [each.keys() for each in found] == [each.keys() for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=CLOSE)
        assert one.get("tokens") == other.get("tokens")


def quiet_end(*followers):
    for code, out, err in followers:
        assert (code, out, err) == (0, "", "")


def one_line(ended):
    """The process has ended with an error that it names in its last line."""
    code, out, err = ended
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    *_, last = err.splitlines()
    assert last.startswith("error: "), err
    return last


def test_two_processes_train_as_one(options, trained, tmp_path):
    first, *others = ranks.run(tmp_path, *[program(options)] * 2)
    assert first[:2] == (0, f"{options['run']}\n"), first
    quiet_end(*others)
    assert "perplexity of held-out text: from" in first[2]
    close(options["run"], trained(**GIVEN))


def test_evaluation_is_shared_out(trained, tmp_path, cli):
    run = trained(**GIVEN)
    flags = ["--run", str(run), "--json"]
    (code, out, err), *others = ranks.run(
        tmp_path, *[["-m", "comigs_mlx.evaluate", *flags]] * 2
    )
    assert code == 0, err
    quiet_end(*others)
    found = json.loads(out)
    expected = json.loads(cli(evaluate.main, *flags)[1])
    for name in ("split", "tokens", "documents"):
        assert found[name] == expected[name]
    for name, result in found["results"].items():
        assert result["loss"] == pytest.approx(
            expected["results"][name]["loss"], abs=1e-6
        )
        assert result["ci95"] == pytest.approx(
            expected["results"][name]["ci95"], rel=1e-5
        )


@pytest.mark.slow
def test_two_then_one_then_three(options, trained, tmp_path):
    run = options["run"]
    first, *others = ranks.run(tmp_path, dying(options, "int:3"), program(options))
    assert first[0] == 130, first
    assert "stopped and saved at step 2" in first[2]
    quiet_end(*others)
    with pytest.raises(KeyboardInterrupt):
        stopped_after(1, ["--run", str(run), "--resume"])
    resuming = ["-m", "comigs_mlx.train", "--run", run, "--resume"]
    first, *others = ranks.run(tmp_path, *[resuming] * 3)
    assert first[0] == 0, first
    assert "resuming at step 3" in first[2]
    assert "a batch is computed in another number of parts" in first[2]
    quiet_end(*others)
    close(run, trained(**GIVEN))


@pytest.mark.slow
def test_with_more_steps_the_learning_rate_goes_on_for_all(trained, tmp_path):
    alone, run = (
        shutil.copytree(trained(**GIVEN), tmp_path / name) for name in ("alone", "run")
    )
    more = ["--resume", "--steps", "10"]
    train.main(["--run", str(alone), *more])
    program = ["-m", "comigs_mlx.train", "--run", run, *more]
    first, *others = ranks.run(tmp_path, *[program] * 2)
    assert first[0] == 0, first
    quiet_end(*others)
    close(run, alone)


def stopped_after(count, argv):
    """Train, and be interrupted at the COUNTth step that is made, of any level."""
    from comigs_mlx.training.level import Level

    inner, left = Level.step, [count]

    def step(*given):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Level, "step", step)
        train.main(argv)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_all_and_resume_goes_on(
    options, trained, tmp_path, victim, capsys
):
    programs = [program(options)] * 3
    programs[victim] = dying(options, 8)
    ended = ranks.run(tmp_path, *programs)
    assert ended.pop(victim)[0] == -signal.SIGKILL
    for each in ended:
        last = one_line(each)
        assert "lost" in last
        assert "--resume" in last
    run = options["run"]
    checkpoint.read_state(checkpoint.latest(RunFolder(run).states))  # whole
    train.main(["--run", str(run), "--resume"])
    assert "resuming at step" in capsys.readouterr().err
    close(run, trained(**GIVEN))


@pytest.mark.slow
def test_a_rank_that_hangs_ends_all_in_time(options, tmp_path):
    given = {**options, "steps": 10000, "peer_timeout": 10}
    with ranks.launched(tmp_path, *[program(given)] * 2) as (first, second):
        until(lambda: checkpoint.saves(RunFolder(options["run"]).states))
        os.kill(second.pid, signal.SIGSTOP)
        began = time.monotonic()
        (ended,) = ranks.ends([first])
        assert time.monotonic() - began < 60
        assert "nothing has come from the other machines in 10 s" in one_line(ended)
        second.kill()
    checkpoint.read_state(checkpoint.latest(RunFolder(options["run"]).states))


@pytest.mark.slow
def test_ctrl_c_for_all_saves_and_ends(options, tmp_path):
    given = {**options, "steps": 10000}
    with ranks.launched(tmp_path, *[program(given)] * 2) as processes:
        until(lambda: checkpoint.saves(RunFolder(options["run"]).states))
        for process in processes:
            os.kill(process.pid, signal.SIGINT)
        first, *others = ranks.ends(processes)
    assert first[0] == 130, first
    assert "stopped and saved at step" in first[2]
    quiet_end(*others)


def until(true):
    """Wait until something is true, for a minute at most."""
    end = time.monotonic() + ranks.SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learning_rate": 1e38}, "NaN or infinite"),
        ({"steps": 0}, "--steps 0 must be at least 1"),
        ({"batch_size": 1}, "raise --batch-size to at least 2"),
    ],
)
def test_what_the_leader_cannot_do_ends_all(options, tmp_path, wrong, said):
    first, *others = ranks.run(tmp_path, *[program({**options, **wrong})] * 2)
    assert said in one_line(first)
    quiet_end(*others)


OTHER = """
import sys
from comigs_mlx import command, train
from comigs_mlx.model.base import Base
from comigs_mlx.runs import following
{}
command.run(lambda: train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("Base.fingerprint = lambda self: '0' * 64", "rank 1: the base model"),
        ("following._versions = lambda: 'mlx 0.1'", "rank 1: it has mlx 0.1, the"),
    ],
)
def test_another_machine_is_refused_before_a_run_begins(
    options, tmp_path, change, said
):
    other = program(options, "-c", OTHER.format(change))
    first, *others = ranks.run(tmp_path, program(options), other)
    assert said in one_line(first)
    quiet_end(*others)
    assert not options["run"].exists()


def test_a_follower_checks_its_base_model(run):
    info = RunFolder(run()).read_info()
    assert following._mixture(info).layers
    info["base_model"]["fingerprint"] = "0" * 64
    with pytest.raises(ModelError, match="is not that of the leader"):
        following._mixture(info)


@pytest.mark.slow
def test_in_a_federation_the_leader_alone_takes_part(options, tmp_path, do):
    uri = tmp_path / "pool"
    flags = tiny.flags(federation=uri, model=options["model"], rank=2)
    sync.main(["init", *flags])
    given = {n: v for n, v in options.items() if n not in ("steps", "rank")}
    given |= {"federation": uri, "rounds": 2, "local_steps": 3, "wait": 0}
    alone, shared = tmp_path / "alone", options["run"]
    other = shutil.copytree(uri, tmp_path / "other")
    given["participant"] = "ann"
    train.main(tiny.flags(**{**given, "run": alone, "federation": other}))
    first, *others = ranks.run(tmp_path, *[program(given)] * 2)
    assert first[0] == 0, first
    quiet_end(*others)
    close(shared, alone)
    events = [
        [e["event"] for e in lines(run / "rounds.jsonl")] for run in (shared, alone)
    ]
    assert events[0] == events[1]
    assert events[0].count("pulled") == 3
