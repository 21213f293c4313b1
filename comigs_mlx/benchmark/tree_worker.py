"""A process that runs variants on request, so that two versions can take turns.

It reads JSON lines and answers each with one:

    {"shape": {...}, "cases": [name, ...], "scratch": folder}
        -> {"library": path of the package, "variants": {case: [name, ...]}}
    {"case": name, "variant": name, "round": index}
        -> {"seconds": s}
    anything that fails -> {"error": "what went wrong"}, and the end

This folder runs with any version of the library around it: nothing of the library is
imported before the first line, and cases are found without the registry.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


def answers(lines: TextIO) -> Iterator[dict[str, Any]]:
    """Yield one answer for each line, until there is no more."""
    runners: dict[str, Any] = {}
    for line in lines:
        request = json.loads(line)
        if "shape" in request:
            runners, variants = _set_up(request)
            yield {"library": _library(), "variants": variants}
        else:
            runner = runners[request["case"]]
            sample = runner.run(request["variant"], request["round"])
            yield {"seconds": sample.seconds}


def _library() -> str:
    import comigs_mlx.model.mixture

    return str(Path(comigs_mlx.model.mixture.__file__).resolve().parents[2])


def _set_up(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    from comigs_mlx.benchmark.measure import Meter, Runner
    from comigs_mlx.benchmark.models import base_model
    from comigs_mlx.benchmark.setting import Setting
    from comigs_mlx.benchmark.shape import BenchShape

    shape = BenchShape.from_dict(request["shape"])
    setting = Setting(shape, base_model(shape.model), Path(request["scratch"]))
    runners, variants = {}, {}
    for name in request["cases"]:
        case = importlib.import_module(f"comigs_mlx.benchmark.cases.{name}")
        makers = case.variants(setting)
        runners[name] = Runner(makers, Meter())
        variants[name] = list(makers)
    return runners, variants


def main() -> None:
    """Write the answers to stdout, to which nothing else is printed, until stdin
    ends.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            for answer in answers(sys.stdin):
                print(json.dumps(answer), file=out, flush=True)
        except Exception as error:  # whatever an older version lacks or refuses
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(json.dumps({"error": problem[:300]}), file=out, flush=True)


if __name__ == "__main__":
    main()
