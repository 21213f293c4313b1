"""A program: a simulation on a Ray cluster of two nodes, on this machine.

    python ray_cluster.py WHAT FLAGS...

WHAT is `run`, `kill` (an actor is killed once, in the midst of a round) or `kill-all`
(every actor is killed as soon as it trains). Prints JSON: nodes that actors were on.
"""

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import comigs_mlx  # noqa: F401  isort: skip

import json
import signal

import ray
from ray.cluster_utils import Cluster

from comigs_mlx import command, simulate
from comigs_mlx.simulation.workers import ray as ours

MEMORY = 100 * 2**20


def main(what, *argv):
    node = {"num_cpus": 2, "object_store_memory": MEMORY, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**{n: v for n, v in node.items() if n != "include_dashboard"})
    seen = watch(what)
    try:
        simulate.main([*argv, "--backend", f"ray:address={cluster.address}"])
    finally:
        cluster.shutdown()
        sys.stderr.write(json.dumps(seen) + "\n")


def watch(what):
    """Write down where actors are; kill some."""
    seen = {"nodes": [], "killed": 0}
    train, start = ours.RayHost.train, ours._Actors.__enter__

    def started(actors):
        start(actors)
        for actor in actors._handles:
            place = ray.get(actor.__ray_call__.remote(where))
            seen["nodes"].append(place)
        return actors

    def trained(host, round, stage, names, shared):
        for i, event in enumerate(train(host, round, stage, names, shared)):
            due = round == 1 and not seen["killed"] if what == "kill" else True
            if what != "run" and i == 1 and due:
                seen["killed"] += 1
                pid = ray.get(host._actors[-1].__ray_call__.remote(number))
                os.kill(pid, signal.SIGKILL)
            yield event

    ours.RayHost.train, ours._Actors.__enter__ = trained, started
    return seen


def where(actor):
    return ray.get_runtime_context().get_node_id()


def number(actor):
    return os.getpid()


if __name__ == "__main__":
    given = sys.argv[1:]
    command.run(lambda: main(*given))
