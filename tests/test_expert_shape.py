"""One fact, one home: the experts' shape, and the names of their files and tensors."""

import ast
import dataclasses
import functools
from pathlib import Path

import pytest

from comigs_mlx import expert_shape
from comigs_mlx.config import from_dict
from comigs_mlx.expert_shape import ExpertShape
from comigs_mlx.federation.formats.manifest import Experts
from comigs_mlx.options import ExpertOptions

PACKAGE = Path(expert_shape.__file__).parent
FIELDS = {field.name for field in dataclasses.fields(ExpertShape)}
OPTIONS = ExpertOptions(generalists=2, specialists=3, rank=4, top_k=1)
SHAPE = ExpertShape.of_options(OPTIONS, 5, ["mlp.down_proj", "mlp.up_proj"])


def test_comigs_json_is_the_public_format():
    assert list(SHAPE.to_json().items()) == [
        ("generalists", 2),
        ("specialists", 3),
        ("rank", 4),
        ("scale", 8.0),
        ("top_k", 1),
        ("router", "topk"),
        ("num_layers", 5),
        ("attention_lora", True),
        ("targets", ["mlp.down_proj", "mlp.up_proj"]),
    ]
    assert ExpertShape.from_json(SHAPE.to_json()) == SHAPE


def test_the_options_attach_the_same_mixture():
    again = from_dict(ExpertOptions, SHAPE.options())
    assert ExpertShape.of_options(again, 5, SHAPE.targets) == SHAPE


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_missing_value_is_named(name):
    info = {key: value for key, value in SHAPE.to_json().items() if key != name}
    with pytest.raises(KeyError, match=name):
        ExpertShape.from_json(info)


def test_the_manifest_has_a_part_of_it():
    """The rest is private, and is nobody else's to know."""
    shared = {field.name for field in dataclasses.fields(Experts)}
    assert FIELDS - shared == {"specialists", "top_k", "router"}
    assert shared <= FIELDS


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


def dictionaries(tree):
    """The dictionaries whose keys spell three or more values of the shape."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = {k.value for k in node.keys if isinstance(k, ast.Constant)}
            if len(keys & FIELDS) >= 3:
                yield keys


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
    """A new value is a field here, and an option; a shared one, a manifest's entry."""
    found = {file for file, tree in everywhere() if list(dictionaries(tree))}
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
        "federation/formats/manifest.py",
        "simulation/options.py",  # the flags of simulate, for whoever sets them
    }


def annotated(node):
    return [
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    ]
