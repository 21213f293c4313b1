"""How people's own files are read; the options stand with train's other ones."""

from __future__ import annotations

from comigs_mlx.options import Reading as Reading

DEFAULT = Reading()
"""How files are read where nothing was said."""
