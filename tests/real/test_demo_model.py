"""The main job on the embedded model, SmolLM2-135M-Instruct, at full size."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx import train
from comigs_mlx.data.batches import Batch
from comigs_mlx.inference.generation import Generation
from comigs_mlx.inference.prompts import prompt_tokens
from comigs_mlx.inference.settings import Settings
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions, TrainingOptions
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.level import Level, expert_group
from tests.model.naive import randomise
from tests.real.conftest import WORDS

pytestmark = pytest.mark.real
EXPERT_FILES = (
    "generalist/adapters.safetensors",
    "specialist/experts.safetensors",
    "router/router.safetensors",
)


@pytest.fixture
def attached(real_demo):
    """Options -> a mixture on the demo model, taken off again after the test."""
    made = []

    def attach(**options):
        made.append(Mixture(real_demo.model, ExpertOptions(**options)))
        return made[-1]

    yield attach
    for mixture in made:
        mixture.detach()


@pytest.fixture(scope="module")
def tokens(real_demo):
    return real_demo.tokenizer.encode(WORDS)


def relative_gap(found, expected):
    return (mx.abs(found - expected).max() / mx.abs(expected).max()).item()


def test_attaching_leaves_the_logits(real_demo, attached, tokens):
    x = mx.array([tokens[:48]])
    before = real_demo.model(x)
    mixture = attached(generalists=2, specialists=2, top_k=2)
    assert relative_gap(real_demo.model(x), before) < 1e-3
    with mixture.selected("base"):
        assert mx.array_equal(real_demo.model(x), before)
    mixture.detach()
    assert mx.array_equal(real_demo.model(x), before)


def test_a_few_steps_lower_the_loss_of_their_batch(attached, tokens):
    mixture = attached()
    options = TrainingOptions(steps=4)
    experts = Level(mixture, [expert_group(options)], options)
    row = np.array([tokens[:25]], np.int32)
    batch = Batch(row, np.ones((1, 24), np.float32), np.zeros((1, 24), np.int32))
    losses = [experts.step([batch]).loss for _ in range(4)]
    assert losses[-1] < losses[0] - 0.2


def test_routing_of_cached_decoding_is_that_of_a_full_pass(real_demo, attached, tokens):
    mixture = attached(specialists=2, top_k=2)
    randomise(mixture.model, std=0.02)
    generation = Generation(real_demo, mixture, tokens[:20], greedy(6))
    list(generation)
    read = tokens[:20] + [piece.id for piece in generation.tokens]
    found = np.array([token.weights for token in generation.trace().tokens])
    _, routing = mixture(mx.array([read]))
    expected = np.array(routing.weights[:, 0].transpose(1, 0, 2))
    assert found.shape == (26, 30, 3)
    # 30 blocks of float32: where two logits nearly tie, another expert may win.
    close = np.abs(found - expected).max(axis=-1) < 1e-3
    assert close.mean() > 0.99
    assert np.abs(np.diff(expected, axis=0)).max(axis=(1, 2)).min() > 0.05


def greedy(max_tokens):
    return Settings(temperature=0.0, max_tokens=max_tokens)


def answer(base, mixture, question):
    prompt = prompt_tokens(base.tokenizer, question)
    generation = Generation(base, mixture, prompt, greedy(12))
    list(generation)
    return generation.text


def test_fresh_experts_and_a_run_without_them_know_the_capital(
    real_demo, real_run, attached
):
    """And the run with its experts says something in letters."""
    question = "What is the capital of France?"
    expected = "The capital of France is Paris."
    assert answer(real_demo, attached(), question) == expected
    base, mixture = RunFolder(real_run).load()
    with mixture.selected("base"):
        assert answer(base, mixture, question) == expected
    text = answer(base, mixture, question)
    assert len([c for c in text if c.isalpha()]) > 10
    assert "\N{REPLACEMENT CHARACTER}" not in text


def test_a_run_resumed_from_its_middle_ends_the_same(real_run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(real_run, again)
    for later in again.glob("state/step-*4"):
        shutil.rmtree(later)
    for name in EXPERT_FILES:
        (again / name).write_bytes(b"")  # as if never written
    assert len(list(again.glob("state/step-*"))) == 1
    train.main(["--run", str(again), "--resume"])
    for name in EXPERT_FILES:
        assert (again / name).read_bytes() == (real_run / name).read_bytes()
    losses = [
        [
            (line["step"], line["train_loss"], line["router_loss"], line["valid_loss"])
            for line in map(
                json.loads, (run / "metrics.jsonl").read_text().splitlines()
            )
        ]
        for run in (again, real_run)
    ]
    assert losses[0] == losses[1] != []


def test_stock_mlx_lm_reads_the_generalist(real_demo, real_run, tokens):
    """As `mlx_lm.generate --adapter-path RUN/generalist` does."""
    from mlx_lm import load

    x = mx.array([tokens[:32]])
    base, mixture = RunFolder(real_run).load()
    with mixture.selected("generalist"):
        ours, _ = mixture(x)
    with mixture.selected("base"):
        bare, _ = mixture(x)
    model, _ = load(str(base.path), adapter_path=str(real_run / "generalist"))
    assert relative_gap(model(x), ours) < 1e-4
    assert relative_gap(bare, ours) > 1e-2
