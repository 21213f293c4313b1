"""`python -m comigs_mlx.doctor`: what is wrong here, and what would training learn?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from comigs_mlx import command
from comigs_mlx.config import parse
from comigs_mlx.diagnosis.options import DoctorConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Check this machine, or report on a text."""
    config = parse(DoctorConfig, "comigs_mlx.doctor", argv)
    if config.data is not None:
        _report(config, config.data)
    else:
        _check(config)


def _check(config: DoctorConfig) -> None:
    from comigs_mlx.diagnosis import base_model, findings, machine

    checks = machine.checks(config.hub)
    if config.model is not None:
        checks.append(("model", lambda: base_model.base_model(config)))
    found = findings.run(checks)
    if config.json:
        command.show(json.dumps(findings.to_json(found)))
    else:
        command.show(findings.text(found))
    if findings.worst(found) == "fail":
        sys.exit(command.BAD_INPUT)


def _report(config: DoctorConfig, data: str) -> None:
    from comigs_mlx.data import preview, preview_text
    from comigs_mlx.data.reading_progress import in_sentences
    from comigs_mlx.diagnosis.base_model import tokenizer

    counting, model = tokenizer(config)
    command.say(
        f"reading {data}" + (f"; tokens of {model}" if counting else f"; {model}")
    )
    found = preview.preview(
        data,
        counting,
        config.seq_len,
        config.mask_prompt,
        config.reading,
        in_sentences(command.say),
    )
    if config.json:
        command.show(json.dumps(preview_text.to_json(found)))
    else:
        command.show("\n".join(preview_text.full(found, command.in_colour())))


if __name__ == "__main__":
    command.run(main)
