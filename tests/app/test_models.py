"""Models as cards, with a catalogue of plain data and a download of none."""

import pytest

from app.actions import models
from app.actions.models import ModelActions
from comigs_mlx.errors import ConfigError, ModelError
from comigs_mlx.model import catalogue
from comigs_mlx.model.catalogue import KnownModel
from comigs_mlx.model.fetching import FetchState
from comigs_mlx.model.licence import Licence

SMALL = KnownModel("ann/small", "Small <b>", True, 500_000_000, 0, Licence("mit"))
LARGE = KnownModel("ann/large", "Large", False, 10**12, 10**12, Licence())


class Download:
    """A download whose state a test sets."""

    def __init__(self, model, total):
        self.model, self.total = model, total
        self.done, self.running, self.problem, self.cancelled = 0, True, None, False

    @property
    def state(self):
        return FetchState(
            self.model,
            self.running,
            self.done,
            self.total,
            self.problem,
            self.cancelled,
        )

    def cancel(self):
        self.running, self.cancelled = False, True


@pytest.fixture
def actions(monkeypatch):
    """(local) -> the actions, and the downloads they begin."""
    monkeypatch.setattr(catalogue, "catalogue", lambda: [LARGE, SMALL])
    monkeypatch.setattr(catalogue, "here", lambda name: None)
    begun = []

    def fetch(model, total):
        begun.append(Download(model, total))
        return begun[-1]

    return lambda local=True: (ModelActions("ann/small", local, fetch), begun)


def test_cards_say_what_is_here_what_fits_and_the_licence(actions):
    page, _ = actions()
    (first, one), (second, other) = page.choices({})
    assert (one, other) == ("ann/small", "ann/large")
    assert first == "Small <b>\nOn this machine, 500 MB · licence mit"
    assert "1 TB to download · too large for this machine" in second
    assert "licence not known" in second


def test_memory_is_told_beside_the_machines(monkeypatch):
    known = catalogue.DEMO_MODEL
    assert models.need(known, {}).startswith("needs about 1.8 of ")
    less = models.need(known, {"batch_size": 1})
    assert less.startswith("needs about 1.0 of ")
    monkeypatch.setattr(
        "comigs_mlx.training.memory_estimate.total_memory", lambda: 2 * 10**9
    )
    assert "too large for this machine: 1.8 of 2 GB" in models.need(known, {})


def test_a_smaller_model_is_the_largest_that_needs_less(actions, monkeypatch):
    made, _ = actions()
    peaks = {"ann/small": 5.0, "ann/large": 9.0}
    monkeypatch.setattr(models, "_peak", lambda one, config: peaks[one.id])
    assert made.smaller("ann/large", {}) == "ann/small"
    assert made.smaller("", {}) == "ann/large"
    with pytest.raises(ConfigError, match="smallest model that there is"):
        made.smaller("ann/small", {})


def test_a_download_is_told_until_its_end(actions):
    page, begun = actions()
    assert page.progress() == ("", False)
    page.fetch("ann/large")
    begun[0].done = 250 * 10**9
    shown, running = page.progress()
    assert running
    assert "250 GB of 1 TB of Large" in shown
    assert 'aria-label="Download"' in shown
    with pytest.raises(ConfigError, match="is being downloaded: wait for it"):
        page.fetch("ann/large")
    begun[0].running, begun[0].problem = False, "use --model <b>"
    shown, running = page.progress()
    assert not running
    assert "use Base model &lt;b&gt;" in shown
    page.fetch("ann/large")
    page.cancel()
    assert "is not downloaded. What is here already is kept." in page.progress()[0]


def test_what_is_here_is_not_fetched(actions):
    page, begun = actions()
    page.fetch("ann/small")
    assert begun == []
    with pytest.raises(ConfigError, match="Choose a model"):
        page.fetch("nobody/knows")


def test_a_model_somebody_names_is_looked_up(actions, monkeypatch):
    asked = []
    found = KnownModel("ann/other", "other", False, 10, 12)
    monkeypatch.setattr(
        catalogue, "described", lambda name: asked.append(name) or found
    )
    page, _ = actions()
    assert page.look_up(" ann/other ") == "ann/other"
    assert asked == ["ann/other"]
    assert page.find("ann/other") == found
    with pytest.raises(ConfigError, match="Type the name"):
        page.look_up(" ")


@pytest.mark.parametrize("name", ["/etc", "~/models", "./x", "../x", "tests"])
def test_from_elsewhere_no_folder_is_looked_at(actions, name):
    page, _ = actions(local=False)
    with pytest.raises(ModelError, match="can be reached from other machines"):
        page.look_up(name)
