"""One fact, one home: the experts' shape, and the names of their files and tensors."""

import ast
import dataclasses
import functools
import json
import typing
from pathlib import Path

import pytest

from comigs_mlx import expert_shape
from comigs_mlx.config import from_dict
from comigs_mlx.errors import FederationError
from comigs_mlx.expert_shape import ExpertShape, SharedShape
from comigs_mlx.federation.formats.contribution import Contribution
from comigs_mlx.federation.formats.manifest import BaseModel, Manifest
from comigs_mlx.federation.participant import membership
from comigs_mlx.files import write_json
from comigs_mlx.options import ExpertOptions

SHARED = [field.name for field in dataclasses.fields(SharedShape)]
PACKAGE = Path(expert_shape.__file__).parent
FIELDS = {field.name for field in dataclasses.fields(ExpertShape)}
OPTIONS = ExpertOptions(generalists=2, specialists=3, rank=4, top_k=1)
SHAPE = ExpertShape.of_options(OPTIONS, 5, ["mlp.down_proj", "mlp.up_proj"])


def test_comigs_json_is_the_public_format(tmp_path):
    write_json(tmp_path / "comigs.json", SHAPE.to_json())
    written = (tmp_path / "comigs.json").read_text()
    assert " ".join(written.split()) == (
        '{ "attention_lora": true, "generalists": 2, "num_layers": 5, "rank": 4, '
        '"router": "topk", '
        '"router_options": { "bias": false, "entropy": 0.0, "soft_training": false }, '
        '"scale": 8.0, "specialists": 3, '
        '"targets": [ "mlp.down_proj", "mlp.up_proj" ], "top_k": 1 }'
    )
    assert ExpertShape.from_json(SHAPE.to_json()) == SHAPE


def test_the_options_attach_the_same_mixture():
    again = from_dict(ExpertOptions, SHAPE.options())
    assert ExpertShape.of_options(again, 5, SHAPE.targets) == SHAPE


@pytest.mark.parametrize("name", sorted(FIELDS - {"router_options"}))
def test_a_missing_value_is_named(name):
    info = {key: value for key, value in SHAPE.to_json().items() if key != name}
    with pytest.raises(KeyError, match=name):
        ExpertShape.from_json(info)


def test_a_run_from_before_routers_had_options_is_read():
    info = SHAPE.to_json()
    del info["router_options"]
    shape = ExpertShape.from_json(info)
    assert shape.router_options == {}
    assert from_dict(ExpertOptions, shape.options()).router_type == "topk"


def test_the_router_s_options_are_part_of_it():
    options = ExpertOptions(router_type="recurrent:size=5")
    shape = ExpertShape.of_options(options, 5, SHAPE.targets)
    assert (shape.router, shape.router_options) == ("recurrent", {"size": 5})
    assert shape.options()["router_type"] == "recurrent:size=5"


def test_the_manifest_has_a_part_of_it():
    """The rest is private, and is nobody else's to know."""
    assert SHARED == [
        "generalists",
        "rank",
        "scale",
        "num_layers",
        "attention_lora",
        "targets",
    ]
    assert FIELDS - set(SHARED) == {"specialists", "top_k", "router", "router_options"}
    assert typing.get_type_hints(Manifest)["experts"] is SharedShape
    assert typing.get_type_hints(Contribution)["experts"] is SharedShape


class TestASharedFieldMore:
    """It is an option, and an entry here: every file and check has it by itself."""

    @dataclasses.dataclass(frozen=True)
    class Wider(SharedShape):
        """As if `window`, from 1 to 9, had been added to the shared fields."""

        window: int = expert_shape.number(1, 9)
        tied: bool = expert_shape.switch(usual=False)

    @dataclasses.dataclass(frozen=True)
    class Options(ExpertOptions):
        window: int = 4
        tied: bool = True

    def described(self):
        """What comigs.json would say, of options that have the field."""
        whole = dataclasses.make_dataclass(
            "Whole", [], bases=(ExpertShape, self.Wider), frozen=True
        )
        options = self.Options(rank=4)
        made = whole.of_options(options, 5, SHAPE.targets)
        again = from_dict(self.Options, made.options())
        assert (again.window, again.tied) == (4, True)
        return made.to_json()

    def test_comigs_json_and_the_options_have_it(self):
        assert self.described()["window"] == 4
        assert self.described().keys() == FIELDS | {"window", "tied"}

    def test_a_manifest_has_it_with_its_limits(self):
        @dataclasses.dataclass(frozen=True)
        class Agreed(Manifest):
            experts: self.Wider

        Agreed.__annotations__["experts"] = self.Wider
        shape = self.Wider.from_json(self.described())
        base = BaseModel("some/model", "f" * 64)
        agreed = Agreed(base, shape, 10**6)
        assert json.loads(agreed.to_json())["experts"]["window"] == 4
        assert Agreed.from_json(agreed.to_json()).experts == shape
        wrong = dataclasses.replace(shape, window=10)
        with pytest.raises(FederationError, match=r"experts.window: 10 is not from 1"):
            dataclasses.replace(agreed, experts=wrong).to_json()

    def test_a_run_of_another_value_does_not_fit(self):
        shape = self.Wider.from_json(self.described())
        agreed = Manifest(BaseModel("some/model", "f" * 64), shape, 10**6)
        other = dataclasses.replace(shape, window=5)
        with pytest.raises(FederationError, match="window is 5, the federation's 4"):
            membership.check_fits(agreed, other, "f" * 64)

    def test_a_new_run_takes_it_over_and_the_card_says_how(self):
        shape = self.Wider.from_json(self.described())
        taken = expert_shape.shared_options(shape, self.Options(window=1))
        assert (taken["window"], taken["tied"]) == (4, True)
        flags = expert_shape.train_flags(shape)
        assert flags.endswith(" --num-layers 5 --window 4 --tied")


def test_names_come_apart_as_they_were_made():
    for index in (0, 1, 12):
        name = f"{expert_shape.prefix(index)}model.layers.0.mlp.up_proj.lora_a"
        assert expert_shape.TENSOR.fullmatch(name)
        assert expert_shape.split(name) == (
            index,
            "model.layers.0.mlp.up_proj.lora_a",
        )
        assert expert_shape.file_of(name) in expert_shape.adapter_paths(13)
    assert expert_shape.generalist_folders(3) == [
        "generalist",
        "generalist-1",
        "generalist-2",
    ]
    assert expert_shape.adapter_paths(2) == [
        "adapters.safetensors",
        "generalist-1/adapters.safetensors",
    ]
    assert expert_shape.generalist_folders(0) == ["generalist"]
    assert expert_shape.adapter_paths(0) == ["adapters.safetensors"]


def documentation(tree):
    """The texts that stand alone as a statement."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def names_built(tree):
    """Every text of code in which a generalist's folder is spelt."""
    alone = documentation(tree)
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node not in alone
        and ("generalist-" in node.value or "generalist/" in node.value)
    ]


def lists(tree):
    """The dictionaries and lists that spell three or more of its values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            named = {k.value for k in node.keys if isinstance(k, ast.Constant)}
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            named = {n.value for n in node.elts if isinstance(n, ast.Constant)}
        else:
            continue
        if len({n for n in named if isinstance(n, str)} & FIELDS) >= 3:
            yield named


@functools.cache
def everywhere():
    """Each module of the package with its syntax tree."""
    return list(parsed())


def parsed():
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text())


def test_no_other_module_spells_the_generalists_folders():
    found = {file for file, tree in everywhere() if names_built(tree)}
    assert found == {"expert_shape.py"}


def test_no_other_module_lists_the_values_of_a_shape():
    """A new value is a field here, and an option: two files, also of a shared one."""
    found = {file for file, tree in everywhere() if list(lists(tree))}
    assert found == set()
    homes = {
        file
        for file, tree in everywhere()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and len(FIELDS & set(annotated(node))) >= 4
    }
    assert homes == {
        "expert_shape.py",
        "options.py",
        "simulation/options.py",  # the flags of simulate, for whoever sets them
    }


def annotated(node):
    return [
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    ]
