"""A report made beside a user interface: kept, outdated, failed, stopped."""

import shutil

import pytest

import tests.tiny as tiny
from comigs_mlx import train
from comigs_mlx.errors import RunError
from comigs_mlx.reports import background


@pytest.fixture
def until():
    import time

    def wait(run):
        end = time.monotonic() + 120
        while (found := background.measured(run)).running:
            assert time.monotonic() < end
            time.sleep(0.05)
        return found

    return wait


def test_it_is_kept_until_the_run_has_learnt_more(run, until):
    folder = run("ann")
    assert background.measured(folder) == background.Measured()
    background.start(folder)
    background.start(folder)  # which does nothing
    assert background.measured(folder).running
    found = until(folder)
    assert found.report["sharing"]["answer"] in ("helps", "hurts", "undecided")
    assert not found.outdated
    train.main(tiny.flags(run=folder, resume=True, steps=8))
    assert background.measured(folder).outdated


def test_why_it_failed_is_told_and_the_last_report_stays(run, until):
    folder = run("ann")
    kept = folder / "state" / background.REPORT
    kept.write_text('{"format_version": 1, "of": {}, "report": {"a": 1}}')
    (folder / "config.yaml").write_text("nonsense: [")
    background.start(folder)
    found = until(folder)
    assert found.report == {"a": 1}
    assert found.problem
    assert "Traceback" not in found.problem


def test_it_can_be_stopped(run):
    folder = run("ann")
    background.start(folder)
    background.stop(folder)
    assert background.measured(folder) == background.Measured()


def test_a_damaged_one_is_none(run):
    folder = run("ann")
    for text in ("{", "[]", '{"format_version": 1}', '{"format_version": 2}'):
        (folder / "state" / background.REPORT).write_text(text)
        assert background.measured(folder).report is None


def test_a_run_without_a_save_is_not_measured(run):
    folder = run("ann")
    for name in ("state", "generalist", "specialist", "router"):
        shutil.rmtree(folder / name)
    with pytest.raises(RunError, match="nothing saved yet"):
        background.start(folder)
