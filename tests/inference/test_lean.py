"""The lean that serves best: a search against a known loss, and the file it is in."""

import json
import math

import pytest

from comigs_mlx.errors import RunError
from comigs_mlx.inference import lean
from comigs_mlx.inference.lean import FILE, MOST_TRIALS, Trial, best, search
from comigs_mlx.inference.settings import Settings
from comigs_mlx.runs.folder import RunFolder


@pytest.mark.parametrize("at", [0.0, 0.3, -0.7, 1.6, -3.0])
def test_finds_the_minimum_of_a_parabola(at):
    trials = list(search(lambda x: 3.0 + 0.01 * (x - at) ** 2))
    assert best(trials).lean == pytest.approx(at, abs=0.01)
    assert len({trial.lean for trial in trials}) == len(trials) <= MOST_TRIALS


@pytest.mark.parametrize("side", [-1, 1])
def test_goes_to_the_end_where_one_side_is_always_better(side):
    trials = list(search(lambda x: math.exp(-side * x)))
    assert best(trials).lean == 4 * side
    assert len(trials) <= MOST_TRIALS


def test_a_gain_that_is_too_small_is_none():
    assert best(list(search(lambda x: 2.0))).lean == 0
    assert best([Trial(0.0, 2.0), Trial(1.0, 2.0 - 9e-5)]).lean == 0
    assert best([Trial(0.0, 2.0), Trial(1.0, 2.0 - 2e-4)]).lean == 1


class TestKept:
    TRIALS = (Trial(0.0, 2.0), Trial(0.5, 1.5))

    @pytest.fixture
    def loaded(self, run):
        folder = RunFolder(run())
        return folder, folder.load()[1]

    def used(self, loaded, **given):
        folder, mixture = loaded
        said = []
        values = lambda: lean.values_digest(mixture)
        settings = lean.with_kept(Settings(**given), folder, values, said.append)
        return settings.lean, said

    def test_is_used_unless_another_is_given(self, loaded):
        folder, mixture = loaded
        assert self.used(loaded) == (None, [])
        kept = lean.keep(folder, mixture, self.TRIALS, 70)
        assert lean.read(folder.path / FILE) == kept
        assert (kept.lean, kept.loss, kept.loss_without, kept.tokens) == (
            *(0.5, 1.5, 2.0),
            70,
        )
        found, said = self.used(loaded)
        assert found == 0.5
        assert said == ["note: leaning by +0.5, as calibrated (--lean 0 turns it off)"]
        assert self.used(loaded, lean=0.0) == (0.0, [])
        assert self.used(loaded, lean=-1.0) == (-1.0, [])
        assert self.used(loaded, selection="generalist") == (None, [])

    def test_is_not_used_for_other_values(self, loaded):
        folder, mixture = loaded
        lean.keep(folder, mixture, self.TRIALS, 70)
        mixture.sites[0].mlp.router.weight = mixture.sites[0].mlp.router.weight + 1
        found, said = self.used(loaded)
        assert found is None
        assert len(said) == 1
        assert "not used: make it again" in said[0]

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ("{", "damaged or incomplete"),
            ('{"format_version": 2}', "has format 2, this version reads 1"),
            ('{"format_version": 1}', "lacks values, lean, loss, loss_without, tokens"),
            ({"lean": "much"}, "has the lean 'much'"),
            ({"lean": True}, "has the lean True"),
            ({"lean": math.nan}, "has the lean nan"),
        ],
    )
    def test_a_file_that_cannot_be_used(self, loaded, content, text):
        folder, mixture = loaded
        lean.keep(folder, mixture, self.TRIALS, 70)
        file = folder.path / FILE
        if isinstance(content, dict):
            content = json.dumps(json.loads(file.read_text()) | content)
        file.write_text(content)
        with pytest.raises(RunError, match=text):
            self.used(loaded)
        assert self.used(loaded, lean=0.0) == (0.0, [])
