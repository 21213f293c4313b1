"""contribution.json and its tensor files: the same bytes each time, nothing lost."""

import dataclasses
import hashlib
import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import load

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.contribution import Contribution, Privacy
from comigs_mlx.federation.formats.encoding import decode, encode
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.federation.rounds.checks import Expected, check_contribution

CURRENT = sharing.tensors(generalists=2)
VALUES = sharing.moved(CURRENT, 1)
ENCODINGS = ("fp16", "fp32", "int8")
FILES = ["adapters.safetensors", "generalist-1/adapters.safetensors"]


def agreed(encoding):
    return sharing.manifest(CURRENT, 2, encoding=encoding)


def received(files, encoding, current=CURRENT):
    """What a reader decodes from the files."""
    expected = Expected(agreed(encoding), 3, Arrays("", current))
    stored = check_contribution(files, "ann", expected)
    return {name: stored.read(name) for name in stored.names()}


class TestMetadata:
    def test_it_comes_back_as_it_was(self):
        made = sharing.contributed(
            VALUES, CURRENT, agreed("fp16"), privacy=Privacy(1.5, 1e-5, 0.1, 2.0)
        )
        content = made.files()["contribution.json"]
        assert Contribution.from_json(content) == made.metadata
        assert json.loads(content) == {
            "format_version": 1,
            "participant": "ann",
            "round": 3,
            "base_fingerprint": sharing.FINGERPRINT,
            "experts": json.loads(agreed("fp16").to_json())["experts"],
            "encoding": "fp16",
            "counters": {"tokens": 1000, "steps": 10},
            "files": {
                file: {
                    "sha256": hashlib.sha256(made.tensors[file]).hexdigest(),
                    "bytes": len(made.tensors[file]),
                }
                for file in FILES
            },
            "signature": None,
            "privacy": {"epsilon": 1.5, "delta": 1e-5, "clip": 0.1, "noise": 2.0},
        }

    def test_counters_that_are_not_agreed_on_stay_here(self):
        quiet = dataclasses.replace(agreed("fp16"), counters=("steps",))
        made = sharing.contributed(VALUES, CURRENT, quiet)
        assert made.metadata.counters == {"steps": 10}
        assert b"tokens" not in made.files()["contribution.json"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"participant": "Ann B"}, "'Ann B' is not a participant's name"),
            ({"round": 0}, "round: 0 is not from 1"),
            ({"counters": {"tokens": -1}}, "tokens -1 is not plausible"),
            ({"counters": {"tokens": 10**17}}, "tokens 100000000000000000 is not"),
        ],
    )
    def test_what_no_one_would_accept_is_not_made(self, changes, problem):
        with pytest.raises(FederationError) as error:
            sharing.contributed(VALUES, CURRENT, agreed("fp16"), **changes)
        assert problem in str(error.value)


@pytest.mark.parametrize("encoding", ENCODINGS)
class TestFiles:
    def test_the_same_content_has_the_same_bytes(self, encoding):
        once = sharing.contributed(VALUES, CURRENT, agreed(encoding)).files()
        backwards = dict(reversed(VALUES.items()))
        assert sharing.contributed(backwards, CURRENT, agreed(encoding)).files() == once
        other = sharing.contributed(
            sharing.moved(CURRENT, 2), CURRENT, agreed(encoding)
        )
        assert all(other.tensors[file] != once[file] for file in FILES)

    def test_other_readers_of_safetensors_read_them(self, encoding, tmp_path):
        made = sharing.contributed(VALUES, CURRENT, agreed(encoding)).tensors
        assert sorted(made) == FILES
        dtype = {"fp16": np.float16, "fp32": np.float32, "int8": np.int8}[encoding]
        for file, content in made.items():
            folder = file.rpartition("adapters")[0]
            path = tmp_path / f"{len(folder)}.safetensors"
            path.write_bytes(content)
            arrays, metadata = mx.load(str(path), return_metadata=True)
            loaded = load(content)
            assert metadata == {"format": "mlx", "encoding": encoding}
            assert loaded.keys() == arrays.keys()
            for name, array in loaded.items():
                assert np.array_equal(array, np.array(arrays[name]))
                if not name.endswith(".scale"):
                    assert array.dtype == dtype
                    assert array.shape == VALUES[folder + name].shape

    def test_what_arrives_and_what_is_kept_back_make_the_input(self, encoding):
        made = encode(VALUES, Arrays("", CURRENT), encoding)
        found = received(
            sharing.contributed(VALUES, CURRENT, agreed(encoding)).files(), encoding
        )
        for name, value in VALUES.items():
            size = np.abs(value).max()
            close = {"fp32": 0.0, "fp16": 2**-11, "int8": 1 / 200}[encoding] * size
            assert np.abs(found[name] - value).max() <= close
            both = found[name].astype(np.float64) + made.residual[name]
            assert np.abs(both - value).max() <= 2**-23 * size

    def test_no_rounding_is_lost_over_many_rounds(self, encoding):
        """Error feedback: the sum of what was sent trails the truth by one residual."""
        current, residual = CURRENT, None
        drift = {name: np.zeros(array.shape) for name, array in CURRENT.items()}
        for round in range(12):
            values = sharing.moved(current, round, 1e-3)
            made = encode(values, Arrays("", current), encoding, residual)
            files = {"current": current, "residual": residual, "encoding": encoding}
            sent = decoded(made, **files)
            for name, value in values.items():
                drift[name] += value.astype(np.float64) - sent[name]
            current, residual = sent, made.residual
        for name, left in residual.items():
            assert np.abs(drift[name] - left).max() <= 1e-6
            assert (
                np.abs(left).max() <= {"fp32": 0, "fp16": 2e-3, "int8": 3e-5}[encoding]
            )

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_not_sent(self, encoding, bad):
        name = sorted(VALUES)[3]
        broken = {**VALUES, name: np.full_like(VALUES[name], bad)}
        with pytest.raises(FederationError, match=f"^{name} is not finite"):
            sharing.contributed(broken, CURRENT, agreed(encoding))


def decoded(made, current, encoding, **_):
    found = {}
    for file, content in made.files.items():
        folder, arrays = file.rpartition("adapters")[0], load(content)
        for inner, array in arrays.items():
            if not inner.endswith(".scale"):
                scale = arrays.get(f"{inner}.scale")
                name = folder + inner
                found[name] = decode(name, array, scale, Arrays("", current))
    return found


def test_fp16_refuses_what_it_cannot_hold():
    name = sorted(VALUES)[0]
    large = {**VALUES, name: np.full_like(VALUES[name], 1e5)}
    with pytest.raises(
        FederationError, match="too large for the federation's encoding"
    ):
        sharing.contributed(large, CURRENT, agreed("fp16"))
    sharing.contributed(large, CURRENT, agreed("fp32"))


@settings(max_examples=150)
@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    st.sampled_from(["x.lora_a", "x.lora_b"]),
)
def test_int8_to_nearest_loses_nothing_at_all(update, name):
    """decoded + residual == update, to the last bit, and no error above half a step."""
    current = Arrays("", {name: np.zeros_like(update)})
    made = encode({name: update}, current, "int8")
    sent = decoded(made, current.tensors, "int8")[name]
    assert np.array_equal(sent + made.residual[name], update)
    axis = 0 if name.endswith("a") else 1
    step = np.abs(update).max(axis=axis, keepdims=True).astype(np.float64) / 127
    assert (np.abs(made.residual[name]) <= step * 0.5001 + 1e-43).all()


def test_int8_has_a_scale_for_each_rank_one_term():
    update = np.array([[1.0, 1200.0], [0.75, -2000.0], [0.25, 0.0]], np.float32)
    for name, array in {"x.lora_a": update, "x.lora_b": update.T}.items():
        current = Arrays("", {name: np.zeros_like(array)})
        made = load(
            encode({name: array}, current, "int8").files["adapters.safetensors"]
        )
        scales = np.float32([1 / 127, 2000 / 127])
        assert np.array_equal(made[f"{name}.scale"], scales)
        q = np.array([[127, 76], [95, -127], [32, 0]])
        assert np.array_equal(made[name], q if name.endswith("a") else q.T)


def test_a_stored_contribution_reads_the_same_from_disk(tmp_path):
    for encoding in ENCODINGS:
        files = sharing.contributed(VALUES, CURRENT, agreed(encoding)).files()
        expected = Expected(agreed(encoding), 3, Arrays("", CURRENT))
        held = check_contribution(files, "ann", expected)
        kept = held.keep(tmp_path / encoding)
        assert (kept.name, kept.tokens) == ("ann", 1000)
        assert all(path.is_file() for path in kept.files.values())
        for name in held.names():
            assert np.array_equal(kept.read(name), held.read(name))
    kept.files["adapters.safetensors"].write_bytes(b"short")
    with pytest.raises(FederationError, match="cannot read"):
        kept.read(sorted(CURRENT)[-1])
