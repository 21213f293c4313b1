"""Charts: where a value is drawn, and what is left out."""

import math
import re

import pytest

from app import curves


def test_a_scale_is_linear():
    scale = curves.Scale(10, 20, 100, 300)
    assert [scale(10), scale(15), scale(20)] == [100, 200, 300]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 5, 10]), (0.9, 2.1, [1, 1.5, 2]), (3, 203, [50, 100, 150, 200])],
)
def test_ticks_are_round(low, high, expected):
    assert curves.ticks(low, high) == pytest.approx(expected)


def test_a_line_goes_from_corner_to_corner():
    made = curves.chart("Loss", {"train": [(0, 1.0), (10, 3.0)]}, "step", "nats")
    path = re.search(r'class="cm-line-a" d="M([^"]+)"', made)[1]
    (x0, y0), (x1, y1) = (map(float, p.split()) for p in path.split("L"))
    assert (x0, x1) == (curves.LEFT, curves.WIDTH - curves.RIGHT)
    assert y0 > y1  # upwards
    assert "train from 1 to 3" in made


def test_what_is_not_finite_is_left_out():
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]
    made = curves.chart("Loss", {"train": points}, "step", "nats")
    assert "nan" not in made
    assert "inf" not in made


def test_long_lines_are_thinned_and_keep_their_ends():
    points = [(i, float(i)) for i in range(5000)]
    made = curves.chart("Loss", {"train": points}, "step", "nats")
    path = re.search(r'class="cm-line-a" d="M([^"]+)"', made)[1]
    assert len(path.split("L")) == curves.MOST_POINTS
    assert "from 0 to 5e+03" in made


def test_one_point_is_no_curve_and_beside_one_a_dot():
    one, two = [(1, 1.0)], [(1, 1.0), (2, 2.0)]
    made = curves.chart("Loss", {"train": one, "valid": one}, "step", "nats")
    assert made == '<p class="cm-note">Loss: nothing to draw yet.</p>'
    both = curves.chart("Loss", {"train": two, "valid": one}, "step", "nats")
    assert "<circle" in both


def heights(made, line="a"):
    path = re.search(rf'class="cm-line-{line}" d="M([^"]+)"', made)[1]
    return [float(pair.split()[1]) for pair in path.split("L")]


def test_noise_is_not_drawn_as_large_as_the_chart():
    noise = {"train": [(0, 2.00), (1, 2.01), (2, 2.00)]}
    up = heights(curves.chart("Loss", noise, "step", "nats", least=0.5))
    inner = curves.HEIGHT - curves.TOP - curves.BOTTOM
    # a hundredth of half a nat: a fiftieth of the axis, and its room above and below
    assert max(up) - min(up) < inner / 40
    full = heights(curves.chart("Loss", noise, "step", "nats"))
    assert max(full) - min(full) > inner / 2


def test_an_axis_with_bounds_has_these():
    shares = {"g": [(0, 50.0), (1, 49.9)]}
    up = heights(curves.chart("Shares", shares, "step", "%", bounds=(0, 100)))
    middle = (curves.TOP + curves.HEIGHT - curves.BOTTOM) / 2
    assert up == pytest.approx([middle, middle], abs=0.5)


def test_no_axis_goes_below_what_can_be():
    made = curves.chart("Loss", {"train": [(0, 0.1), (1, 0.2)]}, "x", "y", least=1.0)
    labels = [float(v) for v in re.findall(r'class="cm-end">(-?[\d.]+)<', made)]
    assert min(labels) >= -0.1
