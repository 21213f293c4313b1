"""`python -m comigs_mlx.export`: a run for other programs, with what it loses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx import command, registry
from comigs_mlx.config import check_new, option, parse
from comigs_mlx.options import parse_experts


@dataclass(frozen=True)
class ExportConfig:
    """Write a run for mlx-lm, transformers, LM Studio, llama.cpp or Ollama.

    Those know no router, so they get one model: the generalist, a specialist, or a
    blend by fixed weights. Where the router weighs token by token, that is a blend by
    its mean weights in each block. What was written is read back and measured on the
    run's held-out text: the loss that it adds is printed, and refused beyond --max-gap.

      python -m comigs_mlx.export --run runs/notes --format mlx --out exports/adapter
      python -m comigs_mlx.export --run runs/notes --format peft --out exports/peft \\
          --experts generalist
      python -m comigs_mlx.export --run runs/notes --format fused --out exports/notes
      python -m comigs_mlx.export --run runs/notes --format gguf --out exports/gguf \\
          --dtype q8_0

    An export with a specialist in it holds what was learnt from private text.
    """

    run: str = option("", "folder of the run", "DIR")
    format: str = option(
        "",
        "mlx (adapter for mlx-lm), peft (adapter for transformers), fused (whole model "
        "for mlx-lm and LM Studio), gguf (whole model for llama.cpp, LM Studio and "
        "Ollama), or a format of another package",
        "NAME",
    )
    out: str = option("", "folder of the export, which is made", "DIR")
    experts: str = option(
        "auto",
        "whom to export: auto (all, as the router weighs them), generalist, "
        "specialist, or one weight an expert, such as 0.3,0.7",
        "WHO",
    )
    dtype: str | None = option(
        None,
        "type of the values: float32, float16, bfloat16, and of gguf also q8_0 "
        "(default: float32 of an adapter, the base's own of fused, float16 of gguf)",
        "TYPE",
    )
    bits: int | None = option(
        None,
        "fused: quantise to so many bits a weight, which may lose much of what was "
        "learnt (default: not at all, and a quantised base is dequantised)",
        "N",
    )
    max_gap: float = option(
        0.1, "refuse to lose more than this against the run, in nats a token", "NATS"
    )
    best: bool = option(False, "use the save with the lowest validation loss")
    data: str | None = option(
        None, "text to measure on (default: the run's own test part)", "PATH|DATASET"
    )
    json: bool = option(False, "print one JSON object instead of lines")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        formats = registry.names("export")
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if not self.out:
            yield "--out DIR is missing: the folder of the export"
        if not self.format:
            yield f"--format NAME is missing: one of {', '.join(formats)}"
        elif self.format not in formats:
            yield f"--format {self.format}: choose one of {', '.join(formats)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Export, and print what was measured and what to type next."""
    config = parse(ExportConfig, "comigs_mlx.export", argv)
    selection = parse_experts(config.experts)
    out = Path(config.out).expanduser()
    check_new(out)
    from comigs_mlx.exports.exporting import Request, export
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(config.run)
    folder.check_exists()
    request = Request(
        run=folder,
        out=out,
        format=config.format,
        selection=selection,
        dtype=config.dtype,
        bits=config.bits,
        max_gap=config.max_gap,
        data=config.data,
        best=config.best,
    )
    results = export(request, command.say, command.progress)
    command.show(json.dumps(results) if config.json else lines(results))


def lines(results: dict[str, Any]) -> str:
    """The results for people."""
    losses, interval = results["loss"], results["ci95"]
    sure = "" if interval is None else " (95 %: {:+.4f} to {:+.4f})".format(*interval)
    size = sum(results["files"].values()) / 1e6
    return "\n".join(
        [
            f"{results['split']}: {results['tokens']} tokens predicted",
            f"{'mixture':10}loss {losses['mixture']:.4f}",
            f"{results['format']:10}loss {losses['export']:.4f}  gap "
            f"{results['gap']:+.4f} nats a token{sure}",
            f"{results['out']}: {results['dtype']}, {size:,.1f} MB",
            results["licence"],
            "next:",
            *results["next"],
        ]
    )


if __name__ == "__main__":
    command.run(main)
