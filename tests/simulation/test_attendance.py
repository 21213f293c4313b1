"""Who takes part is a function of the seed and the round, and of nothing else."""

from comigs_mlx.simulation import attendance

NAMES = [f"p{i}" for i in range(10)]


def drawn(draw, seed):
    return [draw(NAMES, 0.5, seed, round) for round in range(8)]


class TestSeed:
    def test_another_seed_draws_others(self):
        for draw in (attendance.active, attendance.lost):
            assert drawn(draw, 0) == drawn(draw, 0)
            assert drawn(draw, 0) != drawn(draw, 1)

    def test_every_round_draws_anew(self):
        assert len({tuple(names) for names in drawn(attendance.active, 0)}) > 1
        assert len({tuple(names) for names in drawn(attendance.lost, 0)}) > 1

    def test_everybody_comes_equally_often(self):
        rounds = [attendance.active(NAMES, 0.3, 0, round) for round in range(2000)]
        for name in NAMES:
            assert abs(sum(name in names for names in rounds) / 2000 - 0.3) < 0.05
