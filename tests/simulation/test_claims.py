"""One task, one process: claims, their pulse, and who is dead."""

import json
import multiprocessing
import os
import threading

import pytest

from comigs_mlx.simulation import claims
from comigs_mlx.simulation.claims import Claims, Lost, Process


class Watch:
    """A clock that stands still until it is set forward."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def machine(folder, name, watch=None, pid=1):
    """The claims as a process of another machine sees them."""
    process = Process(f"machine {name}", pid, f"token {name}")
    return Claims(folder, process, watch or Watch())


def test_of_many_at_once_one_gets_it(tmp_path):
    for turn in range(20):
        start, taken = threading.Barrier(8), []

        def take(who, turn=turn, start=start, taken=taken):
            here = machine(tmp_path, str(who))
            start.wait()
            if (claim := here.take(f"task-{turn}")) is not None:
                taken.append(claim)

        threads = [threading.Thread(target=take, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1


def test_who_is_overtaken_between_looking_and_claiming_gets_nothing(tmp_path):
    ann, bob = machine(tmp_path, "ann"), machine(tmp_path, "bob")
    claim = bob.take("task")
    ann._newest = lambda task: 0  # what it saw a moment ago
    assert ann.take("task") is None
    claim.check()


def test_a_pulse_that_beats_keeps_a_claim_whatever_the_clocks_say(tmp_path):
    watch = Watch()
    ann, bob = machine(tmp_path, "ann"), machine(tmp_path, "bob", watch)
    claim = ann.take("task")
    for _ in range(10):
        assert bob.take("task") is None
        watch.now += claims.PATIENCE - 1
        claim._beats += 1
        claim.file.write_text(claim.text())
        # Whoever looks at the file's time sees another machine's clock.
        os.utime(claim.file, (0, 0))
    assert bob.take("task") is None
    claim.check()


def test_a_pulse_that_stands_still_is_taken_over_once(tmp_path):
    watch = Watch()
    ann, bob, cy = (machine(tmp_path, name, watch) for name in ("ann", "bob", "cy"))
    dead = ann.take("task")
    assert (bob.take("task"), cy.take("task")) == (None, None)
    watch.now += claims.PATIENCE + 1
    claim = bob.take("task")
    assert claim is not None
    assert cy.take("task") is None  # bob's claim is new, whatever was seen before
    assert dead.is_lost()
    with pytest.raises(Lost):
        dead.check()
    claim.check()


def test_who_wakes_up_does_not_take_its_claim_back(tmp_path):
    watch = Watch()
    ann, bob = machine(tmp_path, "ann", watch), machine(tmp_path, "bob", watch)
    asleep = ann.take("task")
    bob.take("task")
    watch.now += claims.PATIENCE + 1
    claim = bob.take("task")
    asleep.file.write_text(asleep.text())  # one more beat
    assert asleep.is_lost()
    claim.check()
    assert ann.take("task") is None


def test_done_or_failed_it_is_free_at_once(tmp_path):
    ann, bob = machine(tmp_path, "ann"), machine(tmp_path, "bob")
    with pytest.raises(ZeroDivisionError), ann.take("task"):
        raise ZeroDivisionError
    with bob.take("task") as claim:
        claim.check()
    assert ann.take("task") is not None


def test_tasks_whose_names_begin_alike_are_apart(tmp_path):
    ann, bob = machine(tmp_path, "ann"), machine(tmp_path, "bob")
    assert ann.take("fedavg-seed-1") is not None
    assert bob.take("fedavg-seed-10") is not None
    assert bob.take("fedavg-seed-1") is None


def test_on_one_machine_a_process_that_is_gone_is_seen_at_once(tmp_path):
    gone = multiprocessing.get_context("forkserver").Process(target=int)
    gone.start()
    gone.join()
    here = Process("here", os.getpid(), "this one")
    Claims(tmp_path, Process("here", gone.pid, "gone")).take("task")
    Claims(tmp_path, Process("elsewhere", gone.pid, "who knows")).take("other")
    assert Claims(tmp_path, here).take("task") is not None
    assert Claims(tmp_path, here).take("other") is None


def test_a_claim_that_was_cut_off_while_it_was_written(tmp_path):
    watch = Watch()
    ann, bob = machine(tmp_path, "ann"), machine(tmp_path, "bob", watch)
    claim = ann.take("task")
    claim.file.write_text('{"machine": "ma')
    assert bob.take("task") is None
    watch.now += claims.PATIENCE + 1
    assert bob.take("task") is not None


def test_the_pulse_beats_while_the_work_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.005)
    beaten = threading.Event()
    with machine(tmp_path, "ann").take("task") as claim:
        for _ in range(2000):
            if json.loads(claim.file.read_text())["beats"] >= 3:
                beaten.set()
                break
            beaten.wait(0.005)
    assert beaten.is_set()
    assert json.loads(claim.file.read_text())["over"]


def test_this_process_can_be_told_from_others():
    one, other = Process.this(), Process.this()
    assert (one.machine, one.pid) == (other.machine, os.getpid())
    assert one.token != other.token
    assert len(one.machine) > 10
