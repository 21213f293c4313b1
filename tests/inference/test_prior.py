"""The lean that a prompt brings along: what it is made from, and what it changes."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.data.batches import evaluation_batches
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import ConfigError, DataError, RunError
from comigs_mlx.inference import lean, prior, tilts, windows
from comigs_mlx.inference.prior import FILE, Centres, PromptWindows
from comigs_mlx.inference.settings import Settings
from comigs_mlx.model.embedding import embedded
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.evaluation import Evaluator
from tests.model.naive import randomise

MINE = "zzzz qqqq zzzz qqqq " * 8
TRIALS = (lean.Trial(0.0, 2.0), lean.Trial(3.0, 1.5), lean.Trial(-3.0, 1.0))


@pytest.fixture
def loaded(run):
    folder = RunFolder(run())
    base, mixture = folder.load()
    randomise(mixture.model, std=0.3)
    return folder, base, mixture


def by_hand(base, mixture, tokens):
    """e as it is written: the mean over tokens of the bare base's last norm."""
    with mixture.selected("base"):
        hidden, _ = mixture.body(mx.array([tokens]))
    return np.array(hidden[0]).mean(0)


def centres(base, mixture):
    own = prior.of_windows(mixture, windows.of_text(base, MINE, "mine"))
    return Centres(own, prior.of_windows(mixture, windows.generic(base)))


def test_e_is_of_the_base_alone_and_of_counted_tokens(loaded):
    _, base, mixture = loaded
    tokens = list(b"Dear diary")
    counted = np.ones((1, len(tokens)), np.float32)
    counted[0, 6:] = 0
    with mixture.tilted(tilts.as_input(tilts.lean_rows(mixture, 3.0))):
        found = embedded(mixture, mx.array([tokens]), counted)
    # The model is causal: what is not counted comes last, and changes nothing.
    assert found[0] == pytest.approx(by_hand(base, mixture, tokens[:6]), abs=1e-5)
    assert mixture.selection == "auto"


def test_every_token_of_a_text_counts_the_same(loaded):
    """Also where the last window is a short one."""
    _, base, mixture = loaded
    long, short = list(range(97, 113)), [120, 121]
    found = prior.of_windows(mixture, [mx.array([long]), mx.array([short])])
    expected = 16 * by_hand(base, mixture, long) + 2 * by_hand(base, mixture, short)
    assert found == pytest.approx(expected / 18, abs=1e-5)


def test_own_text_is_nearer_than_generic_text(loaded):
    _, base, mixture = loaded
    found = centres(base, mixture)
    assert found.nearness(found.mine) > 0 > found.nearness(found.generic)
    expected = prior.cosine(found.mine, found.generic)
    assert found.nearness(found.mine) == pytest.approx(1 - expected, abs=1e-6)


class TestWithPrior:
    def used(self, loaded, text=MINE, values=None, **given):
        folder, base, mixture = loaded
        said = []
        digest = lambda: values or lean.values_digest(mixture)
        asked = (Settings(**given), folder, base, mixture, text, digest, said.append)
        return prior.with_prior(*asked).lean, said

    @pytest.fixture
    def kept(self, loaded):
        folder, base, mixture = loaded
        found = centres(base, mixture)
        prior.keep(folder, mixture, found, TRIALS, 70)
        return found

    def test_leans_by_scale_times_nearness(self, loaded, kept):
        _, base, mixture = loaded
        near = kept.nearness(kept.mine)
        found, said = self.used(loaded)
        assert found == pytest.approx(3 * near, rel=1e-3)
        assert said == [
            f"note: the prompt leans by {found:+.2f} (--prior 0 turns it off)"
        ]
        found, _ = self.used(loaded, prior=10.0, lean=-0.5)
        assert found == pytest.approx(10 * near - 0.5, rel=1e-3)
        other, _ = self.used(
            loaded, text="def code(): return the usual thing", prior=1.0
        )
        tokens = base.tokenizer.encode("def code(): return the usual thing")
        vector = by_hand(base, mixture, tokens)
        assert other == pytest.approx(kept.nearness(vector), abs=1e-5)
        assert other < near

    def test_is_off(self, loaded, kept):
        assert self.used(loaded, prior=0.0) == (None, [])
        assert self.used(loaded, selection="base") == (None, [])
        assert self.used(loaded, text="short") == (None, [])

    def test_is_not_used_for_other_values_unless_asked_for(self, loaded, kept):
        found, said = self.used(loaded, values="other")
        assert found is None
        assert "made for other values of the experts and is not used" in said[0]
        assert self.used(loaded, values="other", prior=1.0)[0] is not None

    def test_where_the_run_keeps_none(self, loaded):
        assert self.used(loaded) == (None, [])
        with pytest.raises(ConfigError, match="keeps no prior.json: make it with"):
            self.used(loaded, prior=1.0)

    def test_a_scale_below_0_is_never_kept(self, loaded, kept):
        folder, *_ = loaded
        found = json.loads((folder.path / FILE).read_text())
        assert (found["scale"], found["loss"], found["loss_without"]) == (3.0, 1.5, 2.0)
        assert prior.read(folder).scale == 3.0

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ({"format_version": 2}, "has format 2, this version reads 1"),
            ({"mine": [1.0, "x"]}, "damaged or incomplete"),
            ({"mine": [1.0]}, "damaged or incomplete"),
            ({"scale": 1e9}, "damaged or incomplete"),
            ({"scale": None}, "damaged or incomplete"),
            ({"mine": [1.0], "generic": [2.0]}, "not of this base model: remove it"),
        ],
    )
    def test_a_file_that_cannot_be_used(self, loaded, kept, content, text):
        file = loaded[0].path / FILE
        file.write_text(json.dumps(json.loads(file.read_text()) | content))
        with pytest.raises(RunError, match=text):
            self.used(loaded)
        assert self.used(loaded, prior=0.0) == (None, [])


class TestPromptWindows:
    STREAM = TokenStream(
        np.random.default_rng(0).integers(97, 120, 100).astype(np.int32),
        np.zeros(100, np.int32),
    )

    def batches(self, seq_len=16):
        return list(evaluation_batches(self.STREAM, seq_len, 4))

    def test_the_loss_is_that_of_second_halves_each_with_its_own_lean(self, loaded):
        _, base, mixture = loaded
        found = centres(base, mixture)
        parts = PromptWindows(Evaluator(mixture), found, self.batches())
        rows, advanced = tilts.lean_rows(mixture, 0.25), []
        loss, tokens = parts.loss(40.0, rows, lambda: advanced.append(1))
        losses = []
        for start in range(0, 99, 16):
            window = self.STREAM.tokens[start : start + 17].tolist()
            if len(window) < 10:
                continue
            near = found.nearness(by_hand(base, mixture, window[:8]))
            tilt = tilts.as_input(tilts.lean_rows(mixture, 40 * near + 0.25))
            with mixture.tilted(tilt):
                logits, _ = mixture(mx.array([window[:-1]]))
            logs = np.array(logits[0] - mx.logsumexp(logits[0], -1, keepdims=True))
            targets = window[1:]
            losses += [-logs[i, targets[i]] for i in range(8, len(targets))]
        assert tokens == len(losses)
        assert loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert len(advanced) == len(parts)

    def test_a_scale_of_0_is_none(self, loaded):
        _, base, mixture = loaded
        parts = PromptWindows(
            Evaluator(mixture), centres(base, mixture), self.batches()
        )
        trials, tokens = prior.search(
            parts, tilts.lean_rows(mixture, 0.0), lambda: None
        )
        without = next(trial for trial in trials if not trial.lean)
        masked = []
        for batch in self.batches():
            mask = batch.mask.copy()
            mask[:, :8] = 0
            masked.append(batch._replace(mask=mask))
        score = Evaluator(mixture).score(masked)
        assert without.loss == pytest.approx(score.loss, rel=1e-6)
        assert tokens == score.token_count
        assert len({trial.loss for trial in trials}) == len(trials)

    def test_windows_without_halves(self, loaded):
        _, base, mixture = loaded
        with pytest.raises(DataError, match="no window has a prompt and a rest"):
            PromptWindows(Evaluator(mixture), centres(base, mixture), self.batches(1))


def test_settings_below_0():
    with pytest.raises(ConfigError, match="prior -1.0 must be from 0 to"):
        replace(Settings(), prior=-1.0).check()
