"""Gradio is imported without what it does for editors alone, and works."""

import subprocess
import sys

CODE = """
import gc, sys
from app import quick_import
read = []
sys.addaudithook(lambda event, args: event == "open" and read.append(str(args[0])))
passes = []
gc.callbacks.append(lambda phase, info: passes.append(phase))
with quick_import.quickly():
    import gradio
    assert not passes
assert gc.isenabled() and gc.get_freeze_count() > 100_000
assert not [name for name in read if name.endswith(".pyi")], read
assert "{{" in gradio.Button.click.__doc__ # the template, not rendered
with gradio.Blocks():
    gradio.Button().click(print)
assert not any(isinstance(one, quick_import._Finder) for one in sys.meta_path)
"""


def test_nothing_is_made_for_editors_and_no_garbage_collected():
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)


MISSING = """
from types import ModuleType
from app import quick_import
class Usual:
    def create_module(self, spec): return None
    def exec_module(self, module): module.ran = True
for name in quick_import.FOR_EDITORS: # as in a version without the functions
    module = ModuleType(name)
    quick_import._Loader(Usual()).exec_module(module)
    assert module.ran and "create_or_modify_pyi" not in vars(module)
"""


def test_a_version_without_the_functions_is_imported_as_it_is():
    subprocess.run([sys.executable, "-c", MISSING], check=True, timeout=60)
