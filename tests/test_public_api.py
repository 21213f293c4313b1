"""The public names are a promise; so is that commands don't hide one of them."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import comigs_mlx

ROOT = Path(comigs_mlx.__file__).parent


@pytest.mark.parametrize("name", comigs_mlx.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(comigs_mlx, name).__doc__


def test_type_checkers_see_the_same_names():
    source = (ROOT / "__init__.py").read_text()
    assert sorted(re.findall(r"import (\w+) as \1", source)) == comigs_mlx.__all__


def test_no_public_name_is_a_command():
    modules = {path.stem for path in ROOT.glob("*.py")}
    assert not modules.intersection(comigs_mlx.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        importlib.import_module("comigs_mlx").nonsense  # noqa: B018


def test_import_is_light():
    heavy = "mlx.core", "mlx_lm", "transformers", "numpy", "yaml"
    code = f"import sys, comigs_mlx; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_version_is_the_changelog_s_and_the_package_s():
    project = (ROOT.parent / "pyproject.toml").read_text()
    changes = (ROOT.parent / "CHANGELOG.md").read_text()
    newest = re.search(r"## \[(\d[^]]*)\]", changes)
    assert newest is not None
    assert f'\nversion = "{comigs_mlx.__version__}"\n' in project
    assert newest[1] == comigs_mlx.__version__


def test_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT.parent / "CITATION.cff").read_text("utf-8"))
    # What the format's version 1.2.0 demands.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == comigs_mlx.__version__
    assert citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    readme = " ".join((ROOT.parent / "README.md").read_text("utf-8").split())
    assert paper["url"] in readme
    assert paper["title"] in readme
    families = ", ".join(author["family-names"] for author in paper["authors"])
    assert families in readme
