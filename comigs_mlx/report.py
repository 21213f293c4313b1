"""`python -m comigs_mlx.report`: is sharing helping me, and who is needed where?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from comigs_mlx import command
from comigs_mlx.config import parse
from comigs_mlx.errors import ConfigError
from comigs_mlx.files import check_replaceable, write_text
from comigs_mlx.reports.options import ReportConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Load run and text, measure, write the page, print."""
    config = parse(ReportConfig, "comigs_mlx.report", argv)
    target = None if config.html is None else Path(config.html).expanduser()
    if target is not None:
        _check(target)
    from comigs_mlx.reports.measuring import measure
    from comigs_mlx.reports.page import to_html
    from comigs_mlx.reports.report import text, to_json

    found = measure(config, command.say, partial(command.progress, what="batch"))
    if target is not None:
        write_text(target, to_html(found))
        command.say(f"wrote {target}")
    if config.json:
        command.show(json.dumps(to_json(found), allow_nan=False))
    else:
        command.show(text(found))


def _check(target: Path) -> None:
    """Refuse a name for the page before anything is measured."""
    check_replaceable(target)
    if target.is_dir():
        raise ConfigError(f"--html {target} is a folder: name a file")


if __name__ == "__main__":
    command.run(main)
