"""Gradio is imported without the stub files it would write, and works."""

import subprocess
import sys

CODE = """
import pathlib, sys
from app import stubs
read = []
sys.addaudithook(lambda event, args: event == "open" and read.append(str(args[0])))
with stubs.unwritten():
    import gradio
assert not [name for name in read if name.endswith(".pyi")], read
with gradio.Blocks():
    gradio.Button().click(print)
assert not any(isinstance(one, stubs._Finder) for one in sys.meta_path)
"""


def test_no_stub_file_is_read_or_written():
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)
