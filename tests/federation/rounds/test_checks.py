"""Nothing that a stranger sends is believed, and nothing of it crashes the reader."""

import dataclasses
import hashlib
import json
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import tests.federation.sharing as sharing
import tests.tiny as tiny
from comigs_mlx.federation.formats.contribution import Stored
from comigs_mlx.federation.formats.manifest import AggregatorChoice, Member
from comigs_mlx.federation.formats.tensor_source import Arrays, shapes
from comigs_mlx.federation.rounds.checks import (
    Expected,
    Refused,
    check_author,
    check_contribution,
    check_sizes,
)
from comigs_mlx.tensors import serialise

EXAMPLES = int(os.environ.get("COMIGS_HOSTILE_EXAMPLES", tiny.examples(300)))
"""Malformed files a property test tries; the nightly run sets more."""

CURRENT = sharing.tensors(generalists=2)
SOURCE = Arrays("", CURRENT)
VALUES = sharing.moved(CURRENT, 1)
ADAPTER = "adapters.safetensors"
META = "contribution.json"
hostile = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def expected(**changes):
    return Expected(sharing.manifest(CURRENT, 2, **changes), 3, SOURCE)


EXPECTED = expected()
GOOD = sharing.contributed(VALUES, CURRENT, EXPECTED.manifest).files()


def judged(files, expected=EXPECTED, participant="ann"):
    return check_contribution(files, participant, expected)


def reason(files, expected=EXPECTED, participant="ann"):
    found = judged(files, expected, participant)
    assert isinstance(found, Refused)
    assert found.reason.isprintable()
    assert 0 < len(found.reason) <= 160
    return found.reason


def with_meta(**changes):
    return {**GOOD, META: json.dumps({**json.loads(GOOD[META]), **changes}).encode()}


def with_file(content, name=ADAPTER):
    """The files with one replaced and contribution.json telling the truth about it."""
    files = {**GOOD, name: content}
    described = json.loads(GOOD[META])
    digest = hashlib.sha256(content).hexdigest()
    described["files"][name] = {"sha256": digest, "bytes": len(content)}
    return {**files, META: json.dumps(described).encode()}


def with_header(change, content=GOOD[ADAPTER]):
    """The files with the adapter's header passed through `change`."""
    end = 8 + int.from_bytes(content[:8], "little")
    text = change(json.loads(content[8:end]))
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return with_file(len(text).to_bytes(8, "little") + text + content[end:])


def edited(name, **changes):
    return lambda header: {**header, name: {**header[name], **changes}}


FIRST = "model.layers.0.mlp.down_proj.lora_a"
SECOND = "model.layers.0.mlp.down_proj.lora_b"


def test_a_good_contribution_is_accepted_in_every_encoding():
    for encoding in ("fp16", "fp32", "int8"):
        agreed = expected(encoding=encoding)
        made = sharing.contributed(VALUES, CURRENT, agreed.manifest)
        found = judged(made.files(), agreed)
        assert isinstance(found, Stored)
        assert (found.name, found.tokens) == ("ann", 1000)
        for name in found.names():
            assert np.allclose(found.read(name), VALUES[name], atol=0.02)


def test_a_file_by_another_writer_of_safetensors_is_as_good():
    arrays = {n: a.astype(np.float16) for n, a in VALUES.items() if "/" not in n}
    assert isinstance(judged(with_file(save(arrays))), Stored)


class TestSizes:
    SIZES = {name: len(content) for name, content in GOOD.items()}

    def test_the_listing_of_a_good_contribution_passes(self):
        assert check_sizes(self.SIZES, EXPECTED) is None

    @pytest.mark.parametrize(
        ("sizes", "problem"),
        [
            ({"weights.bin": 1}, "unknown file 'weights.bin'"),
            ({"\x1b[0m": 1}, r"unknown file '\x1b[0m'"),
            ({"generalist-2/adapters.safetensors": 1}, "unknown file"),
            ({ADAPTER: 10**12}, "bytes of tensors, at most"),
            ({META: 10**6}, "contribution.json is larger than 65536 bytes"),
            ({ADAPTER: -(10**6)}, "bytes of tensors, at most"),
        ],
    )
    def test_a_listing_is_refused_before_anything_is_read(self, sizes, problem):
        assert problem in check_sizes({**self.SIZES, **sizes}, EXPECTED).reason

    @pytest.mark.parametrize("name", GOOD)
    def test_every_file_must_be_there(self, name):
        sizes = {key: size for key, size in self.SIZES.items() if key != name}
        assert check_sizes(sizes, EXPECTED).reason == f"{name} is missing"
        assert reason({k: v for k, v in GOOD.items() if k != name}).startswith(name)


class TestAuthor:
    def check(self, participants, account, owners=None):
        agreed = sharing.manifest(CURRENT, participants=participants)
        found = check_author("ann", account, agreed, owners)
        return None if found is None else found.reason

    def test_only_the_account_in_the_manifest_counts(self):
        members = {"ann": Member("Ann-Hub")}
        assert self.check(members, "Ann-Hub") is None
        assert self.check(members, "ann-hub") is None  # the Hub knows no case
        wrong = "committed by 'eve', the name belongs to Ann-Hub"
        assert self.check(members, "eve") == wrong
        assert self.check(members, None).startswith("committed by None")

    def test_a_list_keeps_others_out(self):
        refused = "not among the participants of this federation"
        assert self.check({"bob": Member()}, "ann") == refused
        assert self.check({}, "ann") == refused

    def test_without_an_account_the_name_is_enough(self):
        assert self.check({"ann": Member()}, None) is None
        assert self.check(None, "anyone") is None

    def test_where_anyone_may_a_name_stays_with_who_had_it_first(self):
        assert self.check(None, "one", {"ann": "one", "bob": "two"}) is None
        assert "belongs to one" in self.check(None, "two", {"ann": "one"})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"participant": "bob"}, "participant 'bob', expected 'ann'"),
        ({"participant": "../ann"}, "is not a participant's name"),
        ({"round": 2}, "round 2, expected 3"),
        ({"round": 10**15}, "round: 1000000000000000 is not from 1"),
        ({"round": True}, "round: expected a whole number, got True"),
        ({"base_fingerprint": "other"}, "base_fingerprint 'other', expected 'sha256"),
        ({"encoding": "fp32"}, "encoding 'fp32', expected 'fp16'"),
        ({"encoding": ["fp16"]}, "is none of fp16, fp32, int8"),
        ({"format_version": 2}, "has format version 2"),
        ({"counters": {"tokens": 1, "salary": 9}}, "unknown counter 'salary'"),
        ({"counters": {"tokens": 10**16}}, "is not plausible"),
        ({"counters": {"tokens": -5}}, "tokens -5 is not plausible"),
        ({"counters": {"tokens": 0.5}}, "expected a whole number, got 0.5"),
        ({"counters": [["tokens", 1]]}, "counters: expected an object"),
        ({"files": {}}, "does not list the files that are there"),
        ({"files": {ADAPTER: {"sha256": "x", "bytes": 1}}}, "is not a SHA-256"),
        ({"text": "my diary"}, "unknown entry text"),
        ({"signature": "00"}, "is not a signature"),
        ({"privacy": {"epsilon": -1}}, "privacy.delta is missing"),
    ],
)
def test_metadata_that_does_not_agree_is_refused(changes, problem):
    assert problem in reason(with_meta(**changes))


@pytest.mark.parametrize(
    "change",
    [
        {"generalists": 3},
        {"rank": 4},
        {"scale": 4.5},
        {"num_layers": 1},
        {"attention_lora": False},
        {"targets": ["mlp.up_proj"]},
    ],
)
def test_another_shape_of_experts_is_refused(change):
    experts = {**json.loads(GOOD[META])["experts"], **change}
    (name,) = change
    assert reason(with_meta(experts=experts)).startswith(f"experts.{name} ")


def test_counters_must_be_those_of_the_manifest():
    agreed = expected(counters=("steps",))
    assert reason(GOOD, agreed) == "counter tokens is not in the manifest"


def test_a_contribution_must_be_for_its_own_folder_and_round():
    assert reason(GOOD, participant="bob") == "participant 'ann', expected 'bob'"
    later = dataclasses.replace(EXPECTED, round=4)
    assert reason(GOOD, later) == "round 3, expected 4"


def test_another_rank_counts_only_where_the_aggregator_handles_it():
    small = sharing.tensors(5, rank=1, generalists=2)
    svd = expected(aggregator=AggregatorChoice("svd"))
    files = sharing.contributed(small, CURRENT, svd.manifest).files()
    found = judged(files, svd)
    assert isinstance(found, Stored)
    assert shapes(found) == shapes(Arrays("", small))
    assert reason(files) == "experts.rank 1, expected 2"


def test_an_int8_update_has_the_rank_of_what_it_updates():
    small = sharing.tensors(5, rank=1, generalists=2)
    svd = expected(aggregator=AggregatorChoice("svd"), encoding="int8")
    files = sharing.contributed(small, small, svd.manifest).files()
    assert reason(files, svd) == "experts.rank 1, expected 2"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (edited(FIRST, dtype="F32"), "is not described as it should be"),
        (edited(FIRST, dtype="BF16"), "is not described as it should be"),
        (edited(FIRST, dtype=None), "is not described as it should be"),
        (edited(FIRST, shape=[2, 10]), "is F16 [2, 10], expected F16 [10, 2]"),
        (edited(FIRST, shape=[20]), "is F16 [20], expected F16 [10, 2]"),
        (edited(FIRST, shape=[-10, -2]), "is not described as it should be"),
        (edited(FIRST, shape=[10**17, 10**17]), "is not described as it should be"),
        (edited(FIRST, shape=[1] * 9), "is not described as it should be"),
        (edited(FIRST, data_offsets=[0, 10**9]), "is not described as it should be"),
        (edited(FIRST, data_offsets=[-40, 0]), "is not described as it should be"),
        (edited(FIRST, data_offsets=[40, 80]), "tensors overlap or leave gaps"),
        (edited(FIRST, data_offsets=[10**9, 10**9 + 40]), "overlap or leave gaps"),
        (edited(FIRST, data_offsets=[0.0, 40.0]), "is not described as it should be"),
        (edited(FIRST, extra=1), "is not described as it should be"),
        (lambda h: {**h, "x" * 30: h[FIRST]}, "tensors overlap or leave gaps"),
        (lambda h: {**h, FIRST: []}, "is not described as it should be"),
        (lambda h: {**h, "__metadata__": {"format": 1}}, "metadata that is not text"),
        (lambda h: {**h, "__metadata__": "mlx"}, "metadata that is not text"),
        (lambda h: {**h, "__metadata__": {"diary": "x"}}, "unknown metadata"),
        (lambda h: {}, "the tensors do not fill the file exactly"),
        (lambda h: b"[]", "not a safetensors header"),
        (lambda h: b'{"a":1,"a":2}', "one key twice"),
        (lambda h: b'{"a":' * 300 + b"1" + b"}" * 300, "nested too deeply"),
        (lambda h: b"{" + b" " * 9000 + b"}", "not a safetensors file of the"),
        (lambda h: b"{\xff}", "not valid JSON"),
        (
            lambda h: {
                {FIRST: "evil", SECOND: SECOND}.get(k, k): v for k, v in h.items()
            },
            "tensor ",
        ),
    ],
)
def test_a_header_that_is_not_exactly_right_is_refused(change, problem):
    assert problem in reason(with_header(change))


def test_bytes_that_do_not_belong_to_a_tensor_are_refused():
    for content in (GOOD[ADAPTER] + b"\0", GOOD[ADAPTER][:-1]):
        assert reason(with_file(content)) == "the tensors do not fill the file exactly"
    for content in (b"", b"\0" * 8, b"\xff" * 8, (10**6).to_bytes(8, "little") + b"{}"):
        wrong = "not a safetensors file of the expected tensors"
        assert reason(with_file(content)) == wrong


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [ADAPTER, f"generalist-1/{ADAPTER}"])
def test_values_that_are_not_finite_are_refused(bad, name):
    folder = name.rpartition("adapters")[0]
    arrays = {
        key.removeprefix(folder): array.astype(np.float16)
        for key, array in VALUES.items()
        if key.rpartition("/")[0] == folder.rstrip("/")
    }
    arrays[FIRST] = arrays[FIRST].copy()
    arrays[FIRST][3, 1] = bad
    assert "is not finite" in reason(with_file(serialise(arrays, {}), name))


def test_int8_scales_that_make_infinite_values_are_refused():
    agreed = expected(encoding="int8")
    good = sharing.contributed(VALUES, CURRENT, agreed.manifest).files()
    raw = good[ADAPTER]
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    begin = header[f"{FIRST}.scale"]["data_offsets"][0] + len(raw)
    begin -= max(
        entry["data_offsets"][1] for n, entry in header.items() if "_m" not in n
    )
    for bad in (np.float32(3e38), np.float32(np.nan)):
        content = raw[:begin] + bad.tobytes() + raw[begin + 4 :]
        described = json.loads(good[META])
        digest = hashlib.sha256(content).hexdigest()
        described["files"][ADAPTER] = {"sha256": digest, "bytes": len(content)}
        files = {**good, ADAPTER: content, META: json.dumps(described).encode()}
        assert "is not finite" in reason(files, agreed)


def test_a_file_exchanged_on_the_way_is_noticed():
    changed = bytearray(GOOD[ADAPTER])
    changed[-1] ^= 1
    text = reason({**GOOD, ADAPTER: bytes(changed)})
    assert text == f"{ADAPTER} is not the file that was contributed"


@hostile
@given(st.data())
def test_no_damaged_file_is_accepted_or_crashes(data):
    """Bytes flipped, cut out, put in or repeated, with a digest that fits."""
    content = bytearray(GOOD[ADAPTER])
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, header - 1))
        new = data.draw(st.binary(max_size=12))
        content[where : where + data.draw(st.integers(0, 12))] = new
    files = with_file(bytes(content))
    found = judged(files)
    if isinstance(found, Stored):  # it says the same in other words
        assert len(content) == len(GOOD[ADAPTER])
        for name in found.names():
            assert found.read(name).shape == CURRENT[name].shape
            assert np.isfinite(found.read(name)).all()
        same = json.loads(bytes(content[8:header]))
        wanted = json.loads(GOOD[ADAPTER][8:header])
        assert {**same, "__metadata__": 0} == {**wanted, "__metadata__": 0}
    else:
        assert reason(files)


LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.sampled_from([0.5, 1e308, -1.0, "F16", "F32", "", "\ud800", "\x00", FIRST])
)
JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["shape", "dtype", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@hostile
@given(st.sampled_from([FIRST, SECOND, "__metadata__", "other"]), JSON)
def test_no_foreign_header_is_accepted_or_crashes(name, value):
    files = with_header(lambda header: {**header, name: value})
    if name == "__metadata__" and value == {}:
        assert isinstance(judged(files), Stored)
    else:
        reason(files)


@hostile
@given(st.sampled_from(sorted(json.loads(GOOD[META]))), JSON)
def test_no_foreign_metadata_is_accepted_or_crashes(name, value):
    files = with_meta(**{name: value})
    if files[META] == with_meta()[META] or (name, value) == ("counters", {}):
        assert isinstance(judged(files), Stored)
    else:
        reason(files)


@hostile
@given(st.binary(max_size=200), st.sampled_from(sorted(GOOD)))
def test_no_noise_is_accepted_or_crashes(noise, name):
    reason({**GOOD, META: noise} if name == META else with_file(noise, name))


def test_memory_stays_within_a_small_multiple_of_the_file():
    current = sharing.tensors(rank=8192)
    source = Arrays("", current)
    agreed = Expected(sharing.manifest(current, rank=8192), 3, source)
    made = sharing.contributed(current, current, agreed.manifest).files()
    size = sum(len(content) for content in made.values())
    assert size > 10**6
    agreed.shapes  # noqa: B018  (made once a round)
    bomb = with_header(
        edited(FIRST, shape=[10**9, 10**8], data_offsets=[0, 2 * 10**17])
    )
    for files, judge in ((made, agreed), (bomb, EXPECTED)):
        tracemalloc.start()
        judged(files, judge)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * size
