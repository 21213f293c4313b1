"""Several processes make the steps that one makes."""

import json

import mlx.core as mx
import numpy as np
import pytest

import tests.ranks as ranks
import tests.training.patient as patient
import tests.training.shared as shared
from comigs_mlx.training import parallel
from comigs_mlx.training.ranks import Ranks, packed, unpacked

FEW = ["in two batches", "noise"]


def compared(folder, count, names):
    """Let `count` ranks make the steps of settings, and compare them with one."""
    program = [shared.__file__, folder, ",".join(names)]
    ended = ranks.run(folder, *[program] * count)
    assert [code for code, *_ in ended] == [0] * count, ended
    for name in names:
        alone = shared.Steps(name, parallel.ALONE)
        expected = alone.make()
        results = json.loads((folder / f"{name}.json").read_text())
        for result, wanted in zip(results, expected, strict=True):
            assert result["tokens"] == wanted["tokens"], name
            assert result["loss"] == pytest.approx(wanted["loss"], abs=1e-5), name
        files = [np.load(folder / str(rank) / f"{name}.npz") for rank in range(count)]
        for path, array in alone.values().items():
            for file in files[1:]:
                assert np.array_equal(file[path], files[0][path]), (name, path)
            assert np.allclose(files[0][path], array, atol=2e-6), (name, path)


def test_two_equal_one(tmp_path):
    compared(tmp_path, 2, FEW)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "names"),
    [
        (2, sorted(shared.SETTINGS.keys() - set(FEW))),
        (3, ["two of three", "neighbours"]),
    ],
)
def test_so_do_more_in_every_setting(tmp_path, count, names):
    compared(tmp_path, count, names)


@pytest.mark.slow
def test_a_leader_that_works_alone_is_waited_for(tmp_path):
    program = [patient.__file__, tmp_path / "waited"]
    assert ranks.run(tmp_path, program, program)[1] == (0, "", "")


def test_a_message_comes_back_as_it_was():
    arguments = ([(np.arange(6, dtype=np.int32).reshape(2, 3),)], 3, None, ("a", 0.5))
    state = {"x.y": mx.array([1.5, 2.0], mx.bfloat16), "s": mx.array(3, mx.uint64)}
    content, arrays = unpacked(packed({"call": 1, "arguments": arguments}, state))
    [(tokens,)], *others = content["arguments"]
    assert (content["call"], others) == (1, [3, None, ("a", 0.5)])
    assert tokens.dtype == np.int32
    assert np.array_equal(tokens, [[0, 1, 2], [3, 4, 5]])
    assert arrays.keys() == state.keys()
    assert all(arrays[name].dtype == state[name].dtype for name in state)
    assert all(mx.array_equal(arrays[name], state[name]) for name in state)


class World:
    """The first of two ranks."""

    def rank(self):
        return 0

    def size(self):
        return 2


class TestWhatACallSends:
    @pytest.fixture
    def held(self):
        return {"a": mx.array([1.0]), "b": mx.array([2.0])}

    @pytest.fixture
    def sent(self, monkeypatch):
        """The names that each message holds."""
        sent = []
        monkeypatch.setattr(
            Ranks, "_send", lambda self, content, state: sent.append(set(state))
        )
        return sent

    def test_is_what_the_others_do_not_have(self, held, sent):
        group = Ranks(World())

        def learn(name):
            held[name] = held[name] + 1

        call = group.together(learn, parallel.State(lambda: dict(held), held.update))
        call("a")
        call("b")
        held["a"] = mx.array([7.0])  # as after a pull
        call("b")
        group.resend()
        call("b")
        assert sent == [{"a", "b"}, set(), {"a"}, {"a", "b"}]

    def test_is_nothing_for_a_call_within_another(self, held, sent):
        group = Ranks(World())
        state = parallel.State(lambda: held, held.update)
        inner = group.together(lambda: 3, state)
        assert group.together(lambda: inner() + 1, state)() == 4
        assert len(sent) == 1


class TestLauncher:
    def test_without_one_a_process_is_alone(self):
        assert parallel.backend({}) is None
        with parallel.opened() as group:
            assert (group.rank, group.size, group.leader) == (0, 1, True)

    def test_of_one_process_too(self, tmp_path):
        file = tmp_path / "hosts"
        file.write_text("\n")
        assert parallel.backend({"MLX_RANK": "0", "MLX_HOSTFILE": str(file)}) is None
        assert parallel.backend({"OMPI_COMM_WORLD_SIZE": "1"}) is None

    def test_of_several_names_the_backend(self, tmp_path):
        file = tmp_path / "hosts"
        file.write_text("[[]]")
        assert parallel.backend({"MLX_HOSTFILE": str(file)}) == "ring"
        assert parallel.backend({"MLX_IBV_DEVICES": str(file)}) == "jaccl"
        assert parallel.backend({"OMPI_COMM_WORLD_SIZE": "2"}) == "mpi"

    def test_a_lost_hostfile_is_not_taken_for_none(self, tmp_path):
        assert parallel.backend({"MLX_HOSTFILE": str(tmp_path / "gone")}) == "ring"


class OfSeveral(parallel.Group):
    size = 3


def test_rows_are_shared_without_gap_or_overlap():
    group = OfSeveral()
    for rows in (3, 4, 5, 8):
        shares = [group.rows(rows, rank) for rank in range(3)]
        assert [i for share in shares for i in range(rows)[share]] == list(range(rows))
        assert all(share.stop > share.start for share in shares)


def test_a_batch_needs_a_row_for_each():
    assert OfSeveral().needs(3) is None
    assert "raise --batch-size to at least 3" in OfSeveral().needs(2)
