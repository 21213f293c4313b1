"""Measures the memory of a simulation against the number of its participants.

    python scripts/participants_memory.py --model build/tiny-base --out build/scale

Question: what does a participant more cost, where participants lie on the disk, and
where all are kept in memory? Method: for each number, `simulate` runs twice in a
process of its own, with and without room for everybody (--memory-limit), two rounds of
one expert and one router step of 1 x 32 tokens for everybody; its resident memory is
read four times a second. Reading: the peak is of anonymous memory, which nothing but
swap can take away; text is mapped and does not count. With --draw FILE the figure is
drawn of all that is in --out. The last line is JSON.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx import command
from comigs_mlx.config import option, parse
from comigs_mlx.data.demo_python import documents
from comigs_mlx.environment import environment
from comigs_mlx.files import replacing, write_json
from comigs_mlx.simulation.datasets.dividing import write_participants

PASSAGE = 440
"""The characters of a passage; there are about 4,200 of them."""

WORK = {
    "method": "comigs-1g1s",
    "rounds": 2,
    "local_steps": 1,
    "router_every": 1,
    "router_steps": 1,
    "batch_size": 1,
    "seq_len": 32,
    "test_tokens": 32,
    "eval_every": 2,
    "save_every": 1,
}


@dataclass(frozen=True)
class MemoryConfig:
    """Measure memory against participants."""

    out: str = option("build/scale", "folder for texts, results and numbers", "DIR")
    model: str = option("build/tiny-base", "base model", "ID|PATH")
    counts: tuple[int, ...] = option((10, 100, 1000), "numbers of participants", "N")
    memory_limit: float = option(0.05, "of the runs with participants on disk", "GB")
    modes: tuple[str, ...] = option(("disk", "memory"), "disk, memory", "NAME")
    draw: str | None = option(None, "also draw the figure", "FILE.png")

    def problems(self) -> Iterator[str]:
        if not set(self.modes) <= {"disk", "memory"}:
            yield "--modes are disk and memory"


def main() -> None:
    config = parse(MemoryConfig, "scripts.participants_memory")
    out = Path(config.out).expanduser()
    for count in config.counts:
        users = _users(out, count)
        for mode in config.modes:
            file = out / f"{Path(config.model).name}-{count}-{mode}.json"
            if not file.exists():
                write_json(file, _measure(config, users, count, mode))
            command.say(f"{file}: {file.read_text()}")
    rows = [json.loads(file.read_text()) for file in sorted(out.glob("*-*-*.json"))]
    if config.draw is not None:
        _draw(rows, Path(config.draw))
    command.show(json.dumps({"rows": rows, **environment()}))


def _users(out: Path, count: int) -> Path:
    """Write so many participants, each with four passages of its own."""
    users = out / f"users-{count}"
    if users.exists():
        return users
    text = "\n\n".join(documents())
    passages = [text[i : i + PASSAGE] for i in range(0, len(text), PASSAGE)]
    shares = {}
    for i in range(count):
        first, second, valid, test = (
            [{"text": passages[(4 * i + j) % len(passages)]}] for j in range(4)
        )
        name = f"p{i:04}"
        shares[name] = {"train": first + second, "valid": valid, "test": test}
    write_participants(users, shares, {})
    return users


def _measure(
    config: MemoryConfig, users: Path, count: int, mode: str
) -> dict[str, Any]:
    """Run a simulation in a process of its own; its peak memory in bytes."""
    results = users.with_name(f"{users.name}-{Path(config.model).name}-{mode}")
    limit = config.memory_limit if mode == "disk" else 1e6
    given = {**WORK, "users": users, "model": config.model, "out": results}
    given["memory_limit"] = limit
    flags = [
        word
        for name, value in given.items()
        for word in ("--" + name.replace("_", "-"), str(value))
    ]
    argv = [sys.executable, "-m", "comigs_mlx.simulate", *flags, "--no-plots"]
    start, peak = time.perf_counter(), 0
    with open(results.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.25)
    if process.returncode:
        sys.exit(f"error: see {log.name}")
    seconds = [
        json.loads(line)["seconds"]
        for line in next((results / "rounds").iterdir()).read_text().splitlines()
    ]
    return {
        "model": Path(config.model).name,
        "participants": count,
        "mode": mode,
        "limit_gb": limit if mode == "disk" else None,
        "peak_gb": peak / 1e9,
        "round_seconds": seconds,
        "seconds": time.perf_counter() - start,
    }


def _anonymous(pid: int) -> int:
    """Return the bytes of a process's anonymous memory that are resident; Linux."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has just ended
    return 0


def _draw(rows: list[dict[str, Any]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for (model, mode), style in zip(
        sorted({(row["model"], row["mode"]) for row in rows}),
        ("o-", "o--", "s-", "s--"),
        strict=False,
    ):
        of = [row for row in rows if (row["model"], row["mode"]) == (model, mode)]
        of.sort(key=lambda row: row["participants"])
        limit = of[0]["limit_gb"]
        where = f"{limit} GB of states in memory" if limit else "all states in memory"
        axes.plot(
            [row["participants"] for row in of],
            [row["peak_gb"] for row in of],
            style,
            label=f"{model}: {where}",
        )
    axes.set(xscale="log", yscale="log", ylim=(0.1, 10))
    axes.set_xlabel("participants")
    axes.set_ylabel("peak memory of the process, GB")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    command.run(main)
