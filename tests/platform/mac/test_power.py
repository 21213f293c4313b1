"""What is read from the system's answers; the samples are as macOS prints them."""

import pytest

from comigs_mlx.platform.mac import power
from comigs_mlx.platform.mac.power import Power

ON_BATTERY = (
    "Now drawing from 'Battery Power'\n"
    " -InternalBattery-0 (id=243139)\t19%; discharging; 2:11 remaining present: true\n"
)
CHARGING = (
    "Now drawing from 'AC Power'\n"
    " -InternalBattery-0 (id=22806627)\t9%; charging; 1:00 remaining present: true\n"
)
DESKTOP = "Now drawing from 'AC Power'\n"
ON_UPS = (
    "Now drawing from 'UPS Power'\n -UPS (id=1)\t80%; discharging; 0:35 remaining\n"
)
SETTINGS = (
    "System-wide power settings:\nCurrently in use:\n standby              1\n"
    " {}\n hibernatemode        3\n sleep                1 (prevented by powerd)\n"
)


@pytest.mark.parametrize(
    ("text", "charge"),
    [(ON_BATTERY, 19), (ON_UPS, 80), (CHARGING, None), (DESKTOP, None), ("", None)],
)
def test_the_charge_is_read_where_a_battery_is_drawn_from(text, charge):
    assert power.on_battery(text) == charge


@pytest.mark.parametrize(
    ("line", "low"),
    [
        ("lowpowermode         1", True),
        ("powermode            1", True),
        ("lowpowermode         0", False),
        ("powermode            2", False),  # High Power Mode
        ("disksleep            1", False),
    ],
)
def test_low_power_mode(line, low):
    answers = {power.SETTINGS: SETTINGS.format(line)}
    assert power.look(answers.get) == Power(low_power=low)


@pytest.mark.parametrize(
    ("text", "state"), [("0\n", 0), ("2\n", 2), ("3", 3), ("4", 0), ("", 0), ("no", 0)]
)
def test_thermal_state(text, state):
    assert power.look({power.HEAT: text}.get) == Power(thermal=state)


def test_a_system_that_does_not_answer_is_harmless():
    assert power.look(lambda argv: None) == Power(None, 0, False)
