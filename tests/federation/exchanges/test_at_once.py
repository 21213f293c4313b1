"""Eight contribute while three close: nothing is lost, and every round closes once."""

import contextlib
import json
import re
import threading

import tests.federation.exchanges.at_once as at_once
import tests.federation.sharing as sharing
import tests.processes as processes
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.memory import MemoryExchange
from comigs_mlx.federation.formats.tensor_source import Arrays, shapes
from comigs_mlx.federation.rounds import repository
from comigs_mlx.federation.rounds.closing import close_if_due
from comigs_mlx.federation.rounds.submit import contribute

NAMES = [f"p{i}" for i in range(at_once.PUSHERS)]


def test_processes_on_a_folder(tmp_path):
    exchange = FolderExchange(tmp_path / "pool")
    at_once.begin(exchange)

    def start(role, name):
        program = ("-m", "tests.federation.exchanges.at_once")
        return stack.enter_context(processes.start(*program, role, exchange.root, name))

    with contextlib.ExitStack() as stack:
        closers = [start("close", f"c{i}") for i in range(at_once.CLOSERS)]
        pushers = {name: start("push", name) for name in NAMES}
        outputs = {name: one.communicate()[0] for name, one in pushers.items()}
        for process in closers:
            process.communicate()
        assert {p.returncode for p in [*closers, *pushers.values()]} == {0}
    told = {name: json.loads(output)[0] for name, output in outputs.items()}
    federation = repository.current(exchange)
    at_once.check(federation, told)
    repository.pull(exchange, federation, shapes(Arrays("", at_once.FIRST)))
    assert list((exchange.root / ".comigs").glob("stage-*")) == []


def test_threads_on_the_hub(on_hub, hub, repo):
    at_once.begin(on_hub("ann"))
    told, errors = {}, []

    def run(name):
        try:
            exchange = on_hub("ann", patience=60)
            if name in NAMES:
                told[name] = at_once.push(exchange, name)[0]
            else:
                at_once.close(exchange)
        except BaseException as error:
            errors.append(error)

    closers = [f"c{i}" for i in range(at_once.CLOSERS)]
    threads = [threading.Thread(target=run, args=(n,)) for n in [*closers, *NAMES]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    federation = repository.current(on_hub("ann"))
    at_once.check(federation, told)
    history = list(hub.store.repos[repo].history("main"))
    assert len(history) == len(hub.store.repos[repo].commits)  # a line, no side branch
    titles = [commit.title for commit in reversed(history)]
    closed = [int(m[1]) for t in titles if (m := re.fullmatch(r"Close round (\d+)", t))]
    assert closed == list(range(1, federation.round.round + 1))
    for commit in history:
        if commit.title.startswith("Contribute to round "):
            number, name = re.findall(r"round (\d+): (\w+)", commit.title)[0]
            # On time, or the one who sent it was told and tried again.
            late = titles.index(commit.title) > titles.index(f"Close round {number}")
            assert late != (int(number) in told[name])


def test_two_rounds_closed_before_one_looks_again_is_not_too_late():
    """Told so, a participant would contribute the same work twice."""
    first = at_once.FIRST

    def made(federation, name):
        given = {"participant": name, "round": federation.open_round}
        values = sharing.moved(first, len(name))
        return sharing.contributed(values, first, federation.manifest, **given)

    class Overtaken(MemoryExchange):
        def commit(self, changes, message, parent=None):
            landed = super().commit(changes, message, parent)
            other = MemoryExchange("ben", self.store)
            close_if_due(other, repository.current(other), 1.0)
            now = repository.current(other)
            contribute(other, now, made(now, "benjamin"))
            close_if_due(other, repository.current(other), 2.0)
            return landed

    ann = MemoryExchange("ann")
    agreed = sharing.manifest(first, quorum=1)
    federation = repository.initialise(ann, agreed, first, 0.0)
    slow = Overtaken("ann", ann.store)
    assert contribute(slow, federation, made(federation, "ann"))
    found = at_once.counted(repository.current(ann))
    assert found == {1: ("ann",), 2: ("benjamin",)}
