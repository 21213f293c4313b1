"""Checks are isolated from one another, and the worst of them decides."""

import pytest

from comigs_mlx.diagnosis import findings
from comigs_mlx.diagnosis.findings import Finding
from comigs_mlx.errors import ModelError


def raising(error):
    def check():
        yield Finding("first", "ok", "was seen")
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (ModelError("no such model\nmore"), "fail", "no such model"),
        (
            ImportError("no libmlx.so"),
            "fail",
            "a package cannot be loaded (no libmlx.so)",
        ),
        (
            ZeroDivisionError("by zero"),
            "warn",
            "this could not be checked (ZeroDivisionError: by zero)",
        ),
    ],
)
def test_a_check_that_raises_is_a_finding_and_stops_no_other(error, state, text):
    other = Finding("after", "ok", "fine")
    found = findings.run([("broken", raising(error)), ("after", lambda: [other])])
    assert (found[-2].name, found[-2].state, found[-2].text) == ("broken", state, text)
    assert found[-1] == other
    assert findings.worst(found) == state


def test_findings_as_text_and_json():
    found = [
        Finding("BLAS", "warn", "slow", "do this", {"gflops": 2.5}),
        Finding("disk", "ok", "12 GB free"),
    ]
    assert findings.text(found) == (
        "warn  BLAS        slow\n"
        "                  -> do this\n"
        "ok    disk        12 GB free"
    )
    assert findings.to_json(found)["checks"][0]["values"] == {"gflops": 2.5}
    assert findings.to_json(found)["state"] == "warn"
    assert findings.worst([]) == "ok"
