"""What a result is computed from, as MLX would compute it: counts without a clock."""

import io
import re
from collections import defaultdict

import mlx.core as mx
from mlx.utils import tree_flatten

from comigs_mlx.model.routing import Routing

PRODUCTS = ("Matmul", "AddMM", "QuantizedMatmul", "GatherMM", "GatherQMM")


def arrays_of(tree):
    """The arrays of a tree; None where there could be one is left out."""
    if isinstance(tree, Routing):
        tree = tree.arrays()
    elif isinstance(tree, tuple):
        return [array for part in tree for array in arrays_of(part)]
    return [array for _, array in tree_flatten(tree)]


class Graph:
    """The operations that lie between some arrays and a result, not yet evaluated.

    Args:
        result: A tree of arrays.
        leaves: Name -> array; a name has a dot, as no other in the graph has.
    """

    def __init__(self, result, leaves):
        assert all("." in name for name in leaves)
        text = io.StringIO()
        mx.export_to_dot(text, arrays_of(result), **leaves)
        self._labels = dict(re.findall(r"\{ (\d+) \[label =\"(\w+)\"", text.getvalue()))
        self._readers = defaultdict(set)
        for line in text.getvalue().splitlines():
            if " -> " in line:
                source, target = line.split(" -> ")
                self._readers[source.strip('"')].add(target.strip('"'))

    def count(self, *labels):
        """How many operations of these kinds there are."""
        return sum(label in labels for label in self._labels.values())

    def reads(self, name):
        """Whether anything is made of this leaf."""
        return bool(self._readers[name])

    def products(self, name):
        """How many matrix products there are of this leaf, transposed or not."""
        found, seen, todo = set(), set(), [name]
        while todo:
            at = todo.pop()
            if self._labels.get(at) in PRODUCTS:
                found.add(at)
            elif at not in seen:
                seen.add(at)
                todo += self._readers[at]
        return len(found)
