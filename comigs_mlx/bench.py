"""`python -m comigs_mlx.bench`: measures what CoMiGS costs on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx import command, registry
from comigs_mlx.config import option, parse
from comigs_mlx.errors import ConfigError
from comigs_mlx.options import BATCH, RANK, WINDOW

if TYPE_CHECKING:
    from comigs_mlx.benchmark.saved_ratios import SavedRatios
    from comigs_mlx.benchmark.setting import Setting
    from comigs_mlx.benchmark.shape import BenchShape
    from comigs_mlx.benchmark.spread import Spread

CASES = registry.names("case")
ENOUGH_ROUNDS = 5


@dataclass(frozen=True)
class BenchConfig:
    """Measure what CoMiGS costs, compared with mlx-lm's plain LoRA of the same rank on
    the same linears, and with a naive mixture whose experts each run the whole MLP.

    Everything runs in turn in one process: one run of each variant a round, the first
    round dropped, medians of the others. So read the ratios: seconds depend on the
    machine and on what else it does. In ratios of seconds and of memory less is
    better, in those of tokens per second more. Text is random; nothing is learned or
    kept. The demo model takes about 10 minutes on two slow cores.

      python -m comigs_mlx.bench
      python -m comigs_mlx.bench --cases train_step,decode --experts 2 --rounds 2
      python -m comigs_mlx.bench --write docs/bench/smollm2.json
      python -m comigs_mlx.bench --compare docs/bench/smollm2.json
      python -m comigs_mlx.bench --against HEAD~1 --experts 2

    The last line on stdout is one JSON object: environment, shape, and a section a
    case, whose "spread" holds the smallest and largest value of each median or ratio.
    """

    model: str = option(
        "demo",
        "base model: what train takes, or a random one without a download: gpt2 "
        "(GPT-2's shape, 124M) or tiny (a look in seconds)",
        "ID|PATH|demo|gpt2|tiny",
    )
    batch_size: int = option(4, "sequences in a batch", "N", BATCH)
    seq_len: int = option(128, "tokens in a sequence", "TOKENS", WINDOW)
    experts: str = option(
        "1,2,4,8",
        "numbers of experts to measure a training step with: one generalist, the rest "
        "specialists, top 2 of them",
        "E,...",
    )
    naive: bool = option(
        False, "measure the naive mixture for all of --experts, not only for 2"
    )
    rank: int = option(8, "rank of every LoRA pair, also of mlx-lm's", "R", RANK)
    rounds: int = option(
        ENOUGH_ROUNDS,
        f"runs of each variant that count; fewer than {ENOUGH_ROUNDS} are a glimpse, "
        "not a measurement",
        "N",
    )
    cases: str | None = option(
        None, f"only these, of {', '.join(CASES)} (default: all)", "NAME,..."
    )
    against: str | None = option(
        None,
        "instead, time the training steps of this git commit and of the code here in "
        "turns, and show new / old",
        "COMMIT",
    )
    compare: str | None = option(
        None,
        "also print the main ratios beside those in this file, and say which got "
        "worse by more than the spread",
        "FILE",
    )
    write: str | None = option(
        None, "also write the ratios (no seconds) to this file", "FILE"
    )
    json: bool = option(False, "print the JSON object alone")

    @property
    def case_names(self) -> list[str]:
        """The cases to measure, as they were written."""
        return CASES if self.cases is None else _listed(self.cases)

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each value that cannot work."""
        for name in ("batch_size", "seq_len", "rank", "rounds"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                yield f"--{flag} {getattr(self, name)} must be at least 1"
        if not _counts(self.experts):
            yield f"--experts {self.experts}: expected numbers of at least 1, as 1,2,4"
        for name in self.case_names:
            if name not in CASES:
                yield f"--cases {name}: choose from {', '.join(CASES)}"
        if not self.case_names:
            yield f"--cases is empty: choose from {', '.join(CASES)}"
        if self.against is not None and (self.compare or self.write):
            yield "--against makes no ratios to keep: drop --compare and --write"


def _listed(text: str) -> list[str]:
    parts = (part.strip() for part in text.split(","))
    return list(dict.fromkeys(part for part in parts if part))


def _counts(text: str) -> tuple[int, ...]:
    """Parse `1,2,4` as numbers, each once; return () if it is not that."""
    parts = _listed(text)
    good = all(part.isdecimal() and int(part) > 0 for part in parts)
    return tuple(dict.fromkeys(map(int, parts))) if good else ()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print tables and one line of JSON."""
    config = parse(BenchConfig, "comigs_mlx.bench", argv)
    if config.rounds < ENOUGH_ROUNDS:
        command.say(f"note: --rounds {config.rounds}: a glimpse, not a measurement")
    if config.against is None:
        _benchmark(config)
    else:
        _against(config, config.against)


def _shape(config: BenchConfig) -> BenchShape:
    from comigs_mlx.benchmark.shape import BenchShape

    experts = _counts(config.experts)
    return BenchShape(
        model=config.model,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        rank=config.rank,
        experts=experts,
        naive=experts if config.naive else tuple(e for e in experts if e == 2),
        rounds=config.rounds,
    )


def _benchmark(config: BenchConfig) -> None:
    from comigs_mlx.benchmark import saved_ratios
    from comigs_mlx.benchmark.case_results import section
    from comigs_mlx.benchmark.models import base_model
    from comigs_mlx.benchmark.setting import Setting
    from comigs_mlx.environment import environment

    # This is read first: a file that cannot be read should not cost minutes.
    old = None if config.compare is None else saved_ratios.read(Path(config.compare))
    shape, results = _shape(config), {}
    where = environment()
    with tempfile.TemporaryDirectory(prefix="comigs-bench-") as scratch:
        setting = Setting(shape, base_model(shape.model, command.say), Path(scratch))
        for name in _in_order(config.case_names):
            results[name] = _measure(name, setting, show=not config.json)
    sections = {name: section(of_case) for name, of_case in results.items()}
    result = {"environment": where, "shape": shape.to_dict(), **sections}
    if old is not None:
        result["compare"] = _compare(config, old, result["environment"], shape, results)
    command.show(json.dumps(result))
    if config.write is not None:  # last: a full disk must not cost the result
        saved_ratios.write(
            Path(config.write), saved_ratios.content(where, shape, results)
        )
        command.say(f"wrote {config.write}")


def _in_order(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: registry.load("case", name).ORDER)


def _measure(name: str, setting: Setting, show: bool) -> dict[str, Spread]:
    """Run one case, with progress, and print its table."""
    from comigs_mlx.benchmark.case_results import table
    from comigs_mlx.benchmark.measure import Meter, Runner, collect, interleaved

    case, rounds, samples = registry.load("case", name), setting.shape.rounds, []
    makers = case.variants(setting)
    runner = Runner(makers, Meter(), setting.shared_bytes)
    with command.progress(len(makers) * (rounds + 1), name) as advance:
        for sample in interleaved(runner, list(makers), rounds):
            samples.append(sample)
            advance(f"{sample.name} {sample.seconds:.3f} s")
    measured = collect(samples)
    if show:
        command.show(table(name, case, measured) + "\n")
    results: dict[str, Spread] = case.results(measured, setting)
    return results


def _compare(
    config: BenchConfig,
    old: SavedRatios,
    environment: dict[str, Any],
    shape: BenchShape,
    results: dict[str, dict[str, Spread]],
) -> dict[str, Any]:
    """Print how the main ratios changed; return the names of those that got worse."""
    from comigs_mlx.benchmark import saved_ratios

    changes = list(saved_ratios.changes(old, results))
    notes = list(saved_ratios.differences(old, environment, shape))
    worse = [change.name for change in changes if change.worse]
    if not config.json:
        verdict = f"worse by more than the spread: {', '.join(worse) or 'none'}"
        command.show(
            f"against {config.compare}:\n{saved_ratios.table(changes)}\n  {verdict}"
        )
    for note in notes:
        command.say(f"note: {config.compare}: {note}")
    return {"file": config.compare, "worse": worse, "notes": notes}


def _against(config: BenchConfig, name: str) -> None:
    """Time this tree's steps and another commit's in turns."""
    from comigs_mlx.benchmark import against, trees
    from comigs_mlx.environment import ROOT, environment

    commit = trees.resolve(ROOT, name)
    cases = [case for case in against.CASES if case in config.case_names]
    if not cases:
        raise ConfigError(f"--against measures {' and '.join(against.CASES)} only")
    shape = _shape(config)
    if os.path.exists(os.path.expanduser(shape.model)):  # workers run elsewhere
        path = os.path.abspath(os.path.expanduser(shape.model))
        shape = dataclasses.replace(shape, model=path)
    turns = []
    with command.progress(against.count(shape, cases), "run") as advance:
        for turn in against.turns(ROOT, commit, shape, cases):
            turns.append(turn)
            advance(f"{turn.tree} {turn.case}: {turn.variant} {turn.seconds:.3f} s")
    sections = against.section(turns)
    if not config.json:
        command.show(against.table(commit, sections))
    where = environment()
    comparison = {"commit": commit, **sections}
    output = {"environment": where, "shape": shape.to_dict(), "against": comparison}
    command.show(json.dumps(output))


if __name__ == "__main__":
    command.run(main)
