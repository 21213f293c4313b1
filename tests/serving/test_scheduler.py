"""Who is served when, and that no request's failure is another's."""

import queue
import shutil

import pytest

from comigs_mlx.inference import batch as batches
from comigs_mlx.inference import generation
from comigs_mlx.inference.replies import SpokenToken
from comigs_mlx.inference.settings import Settings
from comigs_mlx.serving import scheduler as schedulers
from comigs_mlx.serving.catalogue import Model
from comigs_mlx.serving.refusals import Refusal
from comigs_mlx.serving.requests import Request
from comigs_mlx.serving.scheduler import Begun, Scheduler

OPTIONS = {"specialists": 2, "learning_rate": 0.05}


@pytest.fixture(autouse=True)
def _endless(monkeypatch):
    """No answer ends because the tiny model's context is full."""
    monkeypatch.setattr(generation, "room", lambda base, prompt: 10**6)


def request(tokens=4, words="Dear diary"):
    settings = Settings(temperature=0.0, max_tokens=tokens)
    said = [{"role": "user", "content": words}]
    return Request("m", settings, chat=True, messages=said)


def asked(scheduler, run="notes", selection="auto", **given):
    return scheduler.submit(request(**given), Model("m", run, selection))


def events(ticket):
    """All that happened to a request, once it is over."""
    found = []
    while True:
        found.append(event := ticket.events.get(timeout=60))
        if isinstance(event, Refusal) or getattr(event, "finish_reason", None):
            return found


@pytest.fixture
def made(trained, tmp_path):
    """A scheduler that has begun, its run and what it said."""
    run, said = shutil.copytree(trained(**OPTIONS), tmp_path / "notes"), []
    scheduler = Scheduler({"notes": run}, parallel=2, say=said.append)
    scheduler.start()
    yield scheduler, run, said
    scheduler.stop(0)


def test_a_failure_is_told_to_its_batch_and_the_next_is_answered(made, monkeypatch):
    scheduler, _, said = made
    step = batches.Batch.step
    broken = [RuntimeError("[malloc] Unable to allocate"), KeyError("my diary")]

    def failing(batch, mixture):
        if broken:
            raise broken.pop(0)
        return step(batch, mixture)

    monkeypatch.setattr(batches.Batch, "step", failing)
    begun, refusal = events(asked(scheduler))
    assert isinstance(begun, Begun)
    assert (refusal.status, refusal.code) == (503, "out_of_memory")
    *_, refusal = events(asked(scheduler))
    assert (refusal.status, "window" in refusal.message) == (500, True)
    assert said[-1].startswith("error: KeyError at test_scheduler.py:")
    assert "diary" not in said[-1]
    assert isinstance(events(asked(scheduler))[-1], SpokenToken)


def test_speaks_with_the_run_s_files_as_they_are_now(made, trained):
    scheduler, run, _ = made
    before = [t.id for t in events(asked(scheduler, tokens=12))[1:]]
    shutil.copytree(trained(**OPTIONS, seed=1), run, dirs_exist_ok=True)
    begun, *tokens = events(asked(scheduler, tokens=12))
    assert [token.id for token in tokens] != before
    assert begun.cached == 0
    shutil.rmtree(run)
    (refusal,) = events(asked(scheduler))
    assert (refusal.status, "notes" in refusal.message) == (400, True)
    assert len(events(asked(scheduler, None, "base"))) == 5  # the base needs no run


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_runs_take_turns(made, trained, monkeypatch, seconds):
    """A long answer lets a short one of another run by, once its turn is over."""
    monkeypatch.setattr(schedulers, "TURN_SECONDS", seconds)
    monkeypatch.setattr(schedulers, "TURN_SHARE", 0)
    _, run, _ = made
    scheduler = Scheduler({"notes": run, "more": trained(**OPTIONS, seed=1)})
    ended = queue.Queue()
    for name, tokens in (("notes", 40), ("more", 3)):
        ticket = asked(scheduler, name, tokens=tokens)
        ticket.events.put = lambda event, name=name: (
            getattr(event, "finish_reason", None) and ended.put(name)
        )
    scheduler.start()
    try:
        order = [ended.get(timeout=60) for _ in "ab"]
    finally:
        scheduler.stop(0)
    assert order == (["notes", "more"] if seconds else ["more", "notes"])


def test_places_are_given_in_the_order_of_asking(made):
    """Two are drawn at a time; one that would fit a running batch does not overtake."""
    scheduler, *_ = made
    long, short = asked(scheduler, tokens=90), asked(scheduler, tokens=60)
    other = asked(scheduler, selection="specialist", tokens=3)
    same = asked(scheduler, tokens=3)
    order = queue.Queue()
    for name, ticket in (("other", other), ("same", same)):
        put = ticket.events.put
        ticket.events.put = lambda event, name=name, put=put: (
            order.put(name) if isinstance(event, Begun) else None,
            put(event),
        )
    for ticket in (long, short, other, same):
        assert events(ticket)[-1].finish_reason == "length"
    assert [order.get(), order.get()] == ["other", "same"]


def test_who_leaves_is_drawn_no_further(made, monkeypatch):
    scheduler, *_ = made
    step, steps = batches.Batch.step, []

    def leaving(batch, mixture):
        steps.append(batch)
        if len(steps) == 5:
            ticket.cancel()
        return step(batch, mixture)

    monkeypatch.setattr(batches.Batch, "step", leaving)
    ticket = asked(scheduler, tokens=1000)
    assert isinstance(ticket.events.get(timeout=60), Begun)
    assert len(events(asked(scheduler, tokens=30))) == 31
    assert ticket.events.qsize() <= 5


def test_runs_side_by_side_do_not_mix(made, trained):
    """All wait before the first is served: of two runs with the same experts' shape."""
    _, run, _ = made
    runs = {"notes": run, "more": trained(**OPTIONS, seed=1)}
    scheduler = Scheduler(runs, parallel=3)
    names = ("notes", "more", "notes", "more", "more")
    tickets = [asked(scheduler, name, tokens=12) for name in names]
    scheduler.start()
    try:
        spoken = [[token.id for token in events(ticket)[1:]] for ticket in tickets]
        alone = {
            n: [t.id for t in events(asked(scheduler, n, tokens=12))[1:]] for n in runs
        }
    finally:
        scheduler.stop(0)
    assert alone["notes"] != alone["more"]
    assert spoken == [alone[name] for name in names]


def test_who_has_gone_before_a_place_was_free_is_never_begun(made):
    scheduler, *_ = made
    running = [asked(scheduler, tokens=60) for _ in range(2)]
    gone, after = asked(scheduler), asked(scheduler)
    gone.cancel()
    events(after)
    for ticket in running:
        events(ticket)
    assert gone.events.empty()
