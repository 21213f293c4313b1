"""A training pauses between two steps and goes on as if nothing had happened."""

import json

import pytest

import tests.tiny as tiny
from comigs_mlx import train
from comigs_mlx.options import MacOptions
from comigs_mlx.platform.mac.power import Power
from comigs_mlx.runs import listing, pausing, progress, session
from comigs_mlx.runs.pausing import Pausing, reason
from tests.runs.compare import TIMES

LOW, HOT, SAVING = Power(battery=24), Power(thermal=2), Power(low_power=True)
FINE = Power()


@pytest.mark.parametrize(
    ("state", "options", "expected"),
    [
        (LOW, {}, "on battery 24 %"),
        (LOW, {"pause_on_battery": 24}, None),
        (LOW, {"pause_on_battery": 0}, None),
        (Power(battery=0), {"pause_on_battery": 0}, None),
        (HOT, {}, "the Mac is hot (thermal state serious)"),
        (Power(thermal=3), {}, "the Mac is hot (thermal state critical)"),
        (Power(thermal=1), {}, None),
        (HOT, {"pause_on_heat": False}, None),
        (SAVING, {}, "Low Power Mode is on"),
        (SAVING, {"pause_in_low_power_mode": False}, None),
        (FINE, {}, None),
    ],
)
def test_reasons_and_how_to_switch_each_off(state, options, expected):
    assert reason(state, MacOptions(**options)) == expected


class Machine:
    """A machine whose state follows a list, one a look; time passes only in sleep."""

    def __init__(self, *states, fall=0.0):
        self.states, self.looks, self.now, self.fall = list(states), [], 0.0, fall

    def look(self):
        self.looks.append(self.now)
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def sleep(self, seconds):
        self.now += seconds

    def clock(self):
        self.now += self.fall
        return self.now

    def pausing(self, **options):
        found = MacOptions(**options)
        return Pausing(found, self.look, self.clock, self.sleep)


def test_looks_every_30_seconds_and_tells_a_reason_once():
    machine = Machine(LOW, LOW, Power(battery=23), HOT, FINE)
    told = list(machine.pausing().wait(lambda: False))
    assert told == [
        "on battery 24 %",
        "on battery 23 %",
        "the Mac is hot (thermal state serious)",
    ]
    assert machine.looks == [0, 30, 60, 90, 120]


def test_a_step_costs_no_look():
    machine = Machine(FINE, fall=0.1)
    watch = machine.pausing()
    assert [watch.reason() for _ in range(1000)] == [None] * 1000
    assert len(machine.looks) == 4  # in 100 seconds


def test_the_user_ends_a_pause_within_a_second():
    machine = Machine(LOW)
    told = list(machine.pausing().wait(lambda: machine.now >= 5))
    assert (told, machine.now, machine.looks) == (["on battery 24 %"], 5, [0])


@pytest.mark.parametrize("mac", [True, False])
def test_only_a_mac_is_asked(monkeypatch, mac):
    monkeypatch.setattr(pausing.switch, "macos", lambda: mac)
    assert (pausing.of_this_machine(MacOptions()) is not None) is mac
    never = MacOptions(
        pause_on_battery=0, pause_on_heat=False, pause_in_low_power_mode=False
    )
    assert pausing.of_this_machine(never) is None


@pytest.fixture
def options(tiny_folder, text_folder, tmp_path):
    paths = {"model": tiny_folder(), "data": text_folder, "run": tmp_path / "run"}
    return {**tiny.TRAINING, **paths}


@pytest.fixture
def on(monkeypatch):
    """Let the run be on a machine."""

    def put(machine):
        monkeypatch.setattr(session, "of_this_machine", lambda _: machine.pausing())
        return machine

    return put


def content(run):
    """The bytes of a run's values, and its metrics without times, pauses apart."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    files = {f.relative_to(run): f.read_bytes() for f in run.rglob("*.safetensors")}
    pauses = [line for line in lines if "event" in line]
    return files, [line for line in lines if "event" not in line], pauses


def test_a_run_that_paused_ends_as_one_that_did_not(cli, options, trained, on):
    """It pauses after the steps 1 and 3; after the last one it does not look."""
    low, fine, hot = [LOW, LOW, FINE], [FINE], [HOT, HOT, FINE]
    machine = on(Machine(*low, *fine, *hot, *fine, *fine, fall=30))
    code, out, err = cli(train.main, **options)
    assert code == 0, err
    assert len(machine.looks) == 9
    values, reports, pauses = content(options["run"])
    expected, plain, _ = content(trained())
    assert values == expected
    assert reports == plain
    assert len(listing.metrics(options["run"])) == len(plain)
    assert [(p["step"], p["event"], p.get("reason")) for p in pauses] == [
        (1, "paused", "on battery 24 %"),
        (1, "resumed", None),
        (3, "paused", "the Mac is hot (thermal state serious)"),
        (3, "resumed", None),
    ]
    assert "paused and saved at step 1: on battery 24 %" in err
    assert "going on after a pause of " in err


def test_a_pause_is_a_save_and_can_be_ended(cli, options, trained, on, monkeypatch):
    machine, seen = on(Machine(FINE, LOW, fall=15.1)), []

    def stopped(seconds):
        seen.append(progress.read(options["run"]).get("state"))
        train.signal.raise_signal(train.signal.SIGINT)

    monkeypatch.setattr(machine, "sleep", stopped)
    code, _, err = cli(train.main, **options)
    assert code == 130
    assert seen == ["paused: on battery 24 %"]
    saved = sorted(path.name for path in (options["run"] / "state").iterdir())
    assert "--resume goes on from here" in err
    assert f"saved at step {int(saved[-1][-7:])}" in err
    on(Machine(FINE))
    cli(train.main, run=options["run"], resume=True)
    values, reports, pauses = content(options["run"])
    expected, plain, _ = content(trained())
    same = {p for p in expected if p.parts[0] != "state"}
    assert all(values[path] == expected[path] for path in same)
    assert reports == plain
    assert [pause["event"] for pause in pauses] == ["paused"]
