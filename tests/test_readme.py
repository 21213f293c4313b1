"""What the README shows works as it stands there."""

import re
from pathlib import Path

import mlx.core as mx

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_python_example(trained):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = example.replace('"runs/notes"', repr(str(trained())))
    names = {"tokens": mx.array([[1, 2, 3]])}
    exec(code, names)
    assert names["logits"].shape[:2] == (1, 3)
    assert names["routing"].weights.shape[1:] == (1, 3, 2)


def test_make_targets_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    shown = {
        word
        for line in re.findall(r"^ +make (.*)$", README, re.M)
        for word in line.split("#")[0].split()
    }
    assert shown
    assert shown <= set(re.findall(r"^([\w-]+):", makefile, re.M))
