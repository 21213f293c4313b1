"""Many contribute for many rounds while everything goes wrong: does anything get lost?

    python -m tests.federation.campaign --contributors 8 --rounds 12 --faults all
    python -m tests.federation.campaign --kills 40 --participants 2 --kill-rounds 64

Faults are drawn by chance from a seed, on the loopback Hub, for the real client. Then
the Hub's own record is compared with what the contributors were told, and every
generalist with numpy's mean of what had been contributed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load

import tests.federation.sharing as sharing
import tests.tiny as tiny
from comigs_mlx.federation.exchanges.base import Moved, Unreachable
from comigs_mlx.federation.exchanges.hub import client
from comigs_mlx.federation.exchanges.hub.exchange import HubExchange
from comigs_mlx.federation.exchanges.memory import MemoryExchange
from comigs_mlx.federation.rounds import repository, submit
from comigs_mlx.federation.rounds.closing import close_if_due
from tests.hub_server import Fault, Server

ROOT = Path(__file__).parents[2]
REPO = "p0/pool"
FIRST = sharing.tensors(blocks=1)
BUSY = b'{"error": "Another commit operation is in progress. Please try again later."}'
MANY = b'{"error": "Too many requests, slow down"}'
GONE = {"X-Error-Code": "RevisionNotFound"}
ZERO, RESET = {"Retry-After": "0"}, {"RateLimit": '"api";r=0;t=0'}
FILES, COMMIT = "^GET /(.*/resolve/|cdn/)", "^POST .*/commit/"

FAULTS = {
    "429": [Fault(".", status=429, headers=ZERO)],
    "ratelimit": [Fault(".", status=429, headers=RESET)],
    "403": [Fault("^POST ", status=403, body=MANY)],
    "409": [Fault(COMMIT, status=409, body=BUSY)],
    "412": [Fault(COMMIT, status=412)],
    "423": [Fault(".", status=423)],
    "425": [Fault(".", status=425)],
    "404": [Fault("/(revision|tree|resolve)/", status=404, headers=GONE)],
    "408": [Fault(".", status=408)],
    "500": [Fault(".", status=500)],
    "524": [Fault(".", status=524, body=b"<html>")],
    "after": [Fault(".", "after", status=500)],
    "commit": [
        Fault(COMMIT, "after", chance=3),
        Fault(COMMIT, "reset-after", chance=3),
    ],
    "reset": [Fault(".", "reset")],
    "reset-after": [Fault(".", "reset-after")],
    "cut": [Fault(".", "cut")],
    "shorter": [Fault("^GET ", "shorter")],
    "hang": [Fault(".", "hang", seconds=1.5, chance=0.3)],
    "stall": [Fault(".", "stall", seconds=0.3)],
    "wrong": [Fault(FILES, "wrong", chance=3)],
    "longer": [Fault(FILES, "longer", chance=3)],
}
"""Kind -> faults; `chance` is relative to the others here."""

SETTINGS = ("busy", "lag", "cdn", "squash", "rename")
"""How the Hub is set up for all of the time, or what its owner does meanwhile."""


@dataclass
class Ledger:
    """What the contributors were told, and what happened to them."""

    told: dict[tuple[int, str], dict[str, np.ndarray]] = field(default_factory=dict)
    late: Counter = field(default_factory=Counter)
    offline: Counter = field(default_factory=Counter)
    stopped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Campaign:
    """A loopback Hub with a federation on it, and those who contribute.

    Args:
        contributors: How many, p0 (the owner), p1, ...
        last: The round that ends it.
        quorum: Contributions that close a round.
        faults: Kinds, of `FAULTS` and `SETTINGS`.
        rate: Share of requests to spoil.
        seed: Of all chance.
    """

    def __init__(self, contributors, last, quorum, faults, rate, seed):
        self.names = [f"p{number}" for number in range(contributors)]
        self.last, self.quorum, self.kinds = last, quorum, faults
        self.rate, self.seed, self.ledger = rate, seed, Ledger()
        self.server = Server(users={f"hf_{name}": name for name in self.names})
        self.server.random = random.Random(seed)

    def exchange(self, name, patience=20.0):
        return HubExchange(REPO, "main", self.server.url, f"hf_{name}", patience)

    def run(self):
        """All contribute until the last round is closed."""
        begun = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self.server)
            self.repo = self.server.store.create(REPO, "p0")
            self.repo.rights.update(dict.fromkeys(self.names, "write"))
            owner = self.exchange("p0")
            agreed = sharing.manifest(FIRST, quorum=self.quorum, encoding="fp32")
            repository.initialise(owner, agreed, FIRST, time.time())
            opened = {name: self.exchange(name) for name in self.names}
            for exchange in opened.values():
                exchange.snapshot()  # a 404 to the very first question is final
            self._spoil(stack)
            time.sleep(self.server.lag)  # it was founded long ago
            threads = [
                threading.Thread(target=self._contributor, args=one)
                for one in opened.items()
            ]
            for thread in threads:
                thread.start()
            self._meddle(threads)
            for thread in threads:
                thread.join()
        self.ledger.seconds = time.monotonic() - begun
        return self.ledger

    def _spoil(self, stack):
        found = [
            Fault(**{**vars(fault), "times": 10**9})
            for kind in self.kinds
            for fault in FAULTS.get(kind, ())
        ]
        for fault in found:
            fault.chance *= self.rate / len(found)
        self.server.faults[:] = found
        self.server.commit_seconds = 0.02 if "busy" in self.kinds else 0.0
        self.server.lag = 0.5 if "lag" in self.kinds else 0.0
        if "cdn" in self.kinds:
            other = Server(users={}, store=self.server.store, name="localhost")
            self.server.downloads = stack.enter_context(other)

    def _meddle(self, threads):
        """What the owner does to the repository while others work."""
        squashed = renamed = False
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
            closed = len(self._closings())
            if "squash" in self.kinds and not squashed and closed >= self.last // 3:
                self.repo.squash("main", "p0", "Super-squash branch 'main'")
                squashed = True
            if "rename" in self.kinds and not renamed and closed >= self.last // 2:
                self.server.store.rename(REPO, f"{REPO}-2")
                renamed = True

    def _contributor(self, name, exchange):
        seed = int(name[1:])
        while not self.ledger.stopped:  # without one of them a quorum may never come
            try:
                if self._step(exchange, name, seed):
                    return
            except submit.Late:
                self.ledger.late[name] += 1
            except (Moved, Unreachable):  # training goes on; it is sent later
                self.ledger.offline[name] += 1
            except BaseException as error:
                self.ledger.stopped[name] = f"{type(error).__name__}: {error}"
                return

    def _step(self, exchange, name, seed):
        """One look: contribute if it is not done yet, close if it is due; the end."""
        federation = repository.current(exchange)
        opened = federation.open_round
        if opened > self.last:
            return True
        if (opened, name) not in self.ledger.told:
            current = repository.pull(exchange, federation)
            values = sharing.moved(current, 1000 * seed + opened, size=0.01)
            made = sharing.contributed(
                values, current, federation.manifest, name, opened
            )
            submit.contribute(exchange, federation, made)
            self.ledger.told[opened, name] = values
            federation = repository.current(exchange)
        if close_if_due(exchange, federation, time.time()) is None:
            time.sleep(0.05 + 0.05 * random.random())
        return False

    def _closings(self):
        """Round -> the commits that closed it, of all the Hub ever had."""
        found: dict[int, list] = {}
        for commit in list(self.repo.commits.values()):
            if match := re.fullmatch(r"Close round (\d+)", commit.title):
                found.setdefault(int(match[1]), []).append(commit)
        return found

    def problems(self):
        """One line for each thing that must not be; and what was measured."""
        closings, counted, worst = self._closings(), Counter(), 0.0
        for name, why in sorted(self.ledger.stopped.items()):
            yield f"stopped: {name}: {why}"
        if missing := set(range(1, self.last + 1)) - closings.keys():
            yield f"never closed: {sorted(missing)}"
        for number, commits in sorted(closings.items()):
            if len(commits) > 1:
                yield f"round {number} was closed {len(commits)} times"
            names = contributors(commits[0])
            counted.update((number, name) for name in names)
            worst = max(worst, self._distance(commits[0], number, names))
        told = {key for key in self.ledger.told if key[0] <= self.last}
        if lost := told - counted.keys():
            why = {key: refused(closings.get(key[0]), key[1]) for key in sorted(lost)}
            known = {key: reason for key, reason in why.items() if reason}
            yield f"lost: {sorted(lost)}" + (f", refused: {known}" if known else "")
        if more := [key for key, times in counted.items() if times > 1]:
            yield f"doubled: {sorted(more)}"
        if strange := counted.keys() - self.ledger.told.keys():
            yield f"counted, though its sender was told otherwise: {sorted(strange)}"
        exact = 0.0 if self.quorum == len(self.names) in (1, 2, 4, 8, 16) else 2e-7
        if not worst <= exact:
            yield f"a generalist is {worst:.2g} from the mean, at most {exact:g}"
        self.worst, self.counted = worst, sum(counted.values())

    def _distance(self, commit, number, names):
        """Of a closed round's generalist from numpy's mean, relative to its size."""
        found = load(commit.files["adapters.safetensors"].content)
        given = [self.ledger.told.get((number, name)) for name in names]
        if None in [one if one is None else 1 for one in given]:
            return float("inf")
        worst = 0.0
        for name, value in found.items():
            wide = np.stack([one[name].astype(np.float64) for one in given])
            mean = np.mean(wide, axis=0).astype(np.float32)
            if not np.array_equal(value, mean):
                worst = max(
                    worst, float(np.abs(value - mean).max() / np.abs(mean).max())
                )
        return worst


def refused(commits, name):
    """Why the round that was closed leaves a contribution out, if it says so."""
    state = json.loads(commits[0].files["round.json"].content) if commits else {}
    return state.get("refused", {}).get(name)


def contributors(commit):
    """Of the round that a commit closed, as round.json says."""
    return json.loads(commit.files["round.json"].content)["contributors"]


def cancelling():
    """Two contributions whose products sum to nothing; what goes wrong, if anything."""
    first = sharing.tensors(blocks=1, rank=4, zero_b=True)
    ann = MemoryExchange("ann")
    eve = MemoryExchange("eve", ann.store)
    repository.initialise(ann, sharing.manifest(first, rank=4, quorum=2), first, 0.0)
    mine = {
        name: value.astype(np.float16).astype(np.float32)
        for name, value in sharing.moved(first, 1).items()
    }
    turned = {
        name: value[:, [3, 0, 1, 2]] if name.endswith("a") else -value[[3, 0, 1, 2]]
        for name, value in mine.items()
    }
    for exchange, values in ((ann, mine), (eve, turned)):
        federation = repository.current(exchange)
        made = sharing.contributed(
            values, first, federation.manifest, exchange.account(), 1
        )
        submit.contribute(exchange, federation, made)
    try:
        closed = close_if_due(ann, repository.current(ann), 1.0)
    except Exception as error:
        return [f"two that cancel: whoever closes fails: {type(error).__name__}"]
    return [] if closed else ["two that cancel: the round does not close"]


class Killings:
    """`train --federation` of several participants, killed and resumed again and again.

    Args:
        participants: How many.
        last: Rounds of each.
        kills: SIGKILLs in all, half at a random moment and half upon a request.
        seed: Of all chance.
        folder: For the runs.
    """

    def __init__(self, participants, last, kills, seed, folder):
        self.names = [f"p{number}" for number in range(participants)]
        self.last, self.left, self.folder = last, kills, folder
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.server = Server(users={f"hf_{name}": name for name in self.names})
        self.done, self.errors = 0, {}

    def run(self):
        """The number of kills that hit a living process."""
        self.model = tiny.write_model(self.folder / "model")
        self.text = tiny.write_text(self.folder / "text")
        with self.server:
            self.repo = self.server.store.create(REPO, "p0")
            self.repo.rights.update(dict.fromkeys(self.names, "write"))
            self._found()
            threads = [
                threading.Thread(target=self._train, args=(name,))
                for name in self.names
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return self.done

    def _found(self):
        code = "from comigs_mlx import sync; sync.main()"
        argv = tiny.flags(
            federation=f"hf://{REPO}", model=self.model, rank=2, quorum=len(self.names)
        )
        made = self._start("p0", ["-c", code, "init", *argv])
        _, err = made.communicate(timeout=120)
        assert made.returncode == 0, err

    def _train(self, name):
        run = self.folder / name
        options = {k: v for k, v in tiny.TRAINING.items() if k not in ("steps", "rank")}
        options |= {"model": self.model, "data": self.text, "seed": int(name[1:])}
        options |= {"federation": f"hf://{REPO}", "participant": name, "wait": 600}
        options |= {"rounds": self.last, "local_steps": 2, "save_every": 2, "run": run}
        while True:
            again = {"run": run, "resume": True}
            begun = (run / "config.yaml").exists()
            argv = tiny.flags(**(again if begun else options))
            process = self._start(name, ["-m", "comigs_mlx.train", *argv])
            self._kill(name, process)
            _, err = process.communicate()
            if process.returncode == 0:
                return
            if process.returncode != -signal.SIGKILL:
                self.errors[name] = err.strip().splitlines()[-1:]
                return

    def _kill(self, name, process):
        """Maybe end a process, some time before its end."""
        with self.lock:
            if self.left <= 0:
                return
            self.left -= 1
            upon = self.random.random() < 0.5
            moment = self.random.uniform(2, 9)
            requests = self.random.randint(1, 60)
        end = time.monotonic() + (60 if upon else moment)
        while time.monotonic() < end and process.poll() is None:
            if upon and self._asked(name) >= requests:
                break
            time.sleep(0.005)
        with self.lock:
            if process.poll() is None:
                process.kill()
                self.done += 1
            else:
                self.left += 1

    def _asked(self, name):
        """Requests of a participant since the last look that began anew."""
        mine = f"Bearer hf_{name}"
        found = sum(
            mine
            in (sent.headers.get("Authorization"), sent.headers.get("authorization"))
            for sent in list(self.server.requests)
        )
        before = self._before.setdefault(name, found)
        return found - before

    def _start(self, name, argv):
        self._before = getattr(self, "_before", {})
        self._before.pop(name, None)
        env = {**os.environ, "HF_ENDPOINT": self.server.url, "HF_TOKEN": f"hf_{name}"}
        env |= {"HF_HOME": str(self.folder / "hf"), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, *argv], env=env, cwd=ROOT, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def problems(self):
        """One line for each thing that must not be."""
        for name, error in sorted(self.errors.items()):
            yield f"killed: {name} ended with {error}"
        state = json.loads(self.repo.revision("main").files["round.json"].content)
        found = [(one["round"], one["contributors"]) for one in state["history"]]
        wanted = [(number, self.names) for number in range(1, self.last + 1)]
        if found != wanted:
            yield f"killed: rounds and contributors are {found}"
        titles = Counter(commit.title for commit in self.repo.commits.values())
        for title, times in titles.items():
            if title.startswith("Close round") and times > 1:
                yield f"killed: {title!r} {times} times"
        for name in self.names:
            lines = (self.folder / name / "rounds.jsonl").read_text().splitlines()
            events = [json.loads(line) for line in lines]
            late = [e["round"] for e in events if e["event"] == "late"]
            if late:
                yield f"killed: {name} is told that it was late for {late}"


def hasty(stack):
    """Short waits for the time of `stack`, so that minutes become seconds."""
    for name, value in (("FIRST_WAIT", 0.05), ("LONGEST_WAIT", 1.0), ("READ", 1.0)):
        stack.callback(setattr, client, name, getattr(client, name))
        setattr(client, name, value)


def faults_of(text):
    """`all`, `none`, or kinds separated by commas, `-kind` to leave one out of all."""
    every = [*FAULTS, *SETTINGS]
    if text in ("all", "none"):
        return every if text == "all" else []
    given = text.split(",")
    if unknown := {kind.lstrip("-") for kind in given} - {*every, "all"}:
        raise SystemExit(f"unknown kinds {sorted(unknown)}: choose of {every}")
    left_out = {kind[1:] for kind in given if kind.startswith("-")}
    if left_out or "all" in given:
        return [kind for kind in every if kind not in left_out]
    return given


def main(argv=None):
    """Run what is asked for and print tables; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contributors", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--quorum", type=int, help="all contributors, unless given")
    parser.add_argument("--faults", default="all", help=faults_of.__doc__)
    parser.add_argument("--rate", type=float, default=0.08, help="share of requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kills", type=int, default=0, help="at most; fewer where the rounds end first"
    )
    parser.add_argument("--participants", type=int, default=2)
    parser.add_argument("--kill-rounds", type=int, default=16)
    args = parser.parse_args(argv)
    found = []
    with ExitStack() as stack:
        hasty(stack)
        if args.rounds:
            found += attend(args)
    found += cancelling()
    if args.kills:
        found += kill(args)
    for line in found or ["nothing lost, doubled, closed twice or stopped"]:
        print(line)  # noqa: T201
    return 1 if found else 0


def attend(args):
    """The campaign of contributors; its table is printed."""
    quorum = args.quorum or args.contributors
    kinds = faults_of(args.faults)
    made = Campaign(args.contributors, args.rounds, quorum, kinds, args.rate, args.seed)
    ledger = made.run()
    found, server = list(made.problems()), made.server
    bodies = sum(len(sent.body) for sent in server.requests)
    spoilt = sum(server.spoilt.values())
    rows = {
        "contributors, rounds, quorum": f"{args.contributors}, {args.rounds}, {quorum}",
        "told contributed": len(ledger.told),
        "counted": made.counted,
        "late, offline": f"{sum(ledger.late.values())}, {sum(ledger.offline.values())}",
        "largest distance from numpy's mean": f"{made.worst:.2g}",
        "requests": len(server.requests),
        "spoilt": f"{spoilt} ({spoilt / max(1, len(server.requests)):.1%})",
        "sent": f"{bodies / 1e6:.2f} MB",
        "time": f"{ledger.seconds:.0f} s",
        **{f"  {kind}": times for kind, times in sorted(server.spoilt.items())},
    }
    for name, value in rows.items():
        print(f"{name:36} {value}")  # noqa: T201
    return found


def kill(args):
    """The campaign of kills; a line is printed."""
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    try:
        made = Killings(
            args.participants, args.kill_rounds, args.kills, args.seed, folder
        )
        begun, done = time.monotonic(), made.run()
        seconds = time.monotonic() - begun
        print(f"{'kills':36} {done} in {seconds:.0f} s")  # noqa: T201
        return list(made.problems())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
