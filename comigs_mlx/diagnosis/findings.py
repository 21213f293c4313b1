"""What a check found, and how all checks are run: each alone, none can stop the others.

A check is a function without arguments that yields findings. Whatever it raises becomes
a finding of its own, so that a broken installation is described and not a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from comigs_mlx.errors import ComigsError, line

State = Literal["ok", "warn", "fail"]

SEVERITY: dict[State, int] = {"ok": 0, "warn": 1, "fail": 2}

WIDTH = 10
"""The columns of a check's name."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        name: The name of what was looked at, in one or two words.
        state: "ok"; "warn" where something is slow or missing that not everybody needs;
            "fail" where something needed is broken.
        text: The sentence that says how it is.
        advice: The sentence that says what to do; "" where nothing has to be done.
        values: The same as numbers and names, for programs.
    """

    name: str
    state: State
    text: str
    advice: str = ""
    values: dict[str, Any] = field(default_factory=dict)


Check = Callable[[], Iterable[Finding]]


def run(checks: Sequence[tuple[str, Check]]) -> list[Finding]:
    """Run all checks.

    Args:
        checks: Pairs of the name that a failing check gets, and the check.
    """
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check()
        except ComigsError as error:
            first, *_ = str(error).splitlines()
            found.append(Finding(name, "fail", first))
        except ImportError as error:
            text = f"a package cannot be loaded ({line(error)})"
            advice = "python -m pip install --force-reinstall comigs-mlx"
            found.append(Finding(name, "fail", text, advice))
        except Exception as error:  # of other packages and of the system: any
            text = f"this could not be checked ({type(error).__name__}: {line(error)})"
            found.append(Finding(name, "warn", text))
    return found


def worst(findings: Iterable[Finding]) -> State:
    """Return the state of the finding that is most severe."""
    states = [finding.state for finding in findings]
    return max(states, key=lambda state: SEVERITY[state], default="ok")


def text(findings: Iterable[Finding]) -> str:
    """Write findings for people, a line each, with the advice below."""
    lines = []
    for one in findings:
        lines.append(f"{one.state:4}  {one.name:{WIDTH}}  {one.text}")
        if one.advice:
            lines.append(f"{'':{WIDTH + 8}}-> {one.advice}")
    return "\n".join(lines)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings as dictionaries and lists."""
    return {"state": worst(findings), "checks": [asdict(one) for one in findings]}
