"""Settings that keep the page to this machine; made before Gradio reads them."""

from __future__ import annotations

import os

from comigs_mlx.environment import NO_TELEMETRY
from comigs_mlx.files import cache_dir

SETTINGS = {
    **NO_TELEMETRY,
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_ALLOWED_PATHS": "",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_DEBUG": "0",
}
"""No telemetry, no tunnel, no folder served, nothing kept in the browser."""

FROM_OUTSIDE = ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_ROOT_PATH")
"""Settings that would silently open the page wider than its flags say."""


def keep() -> None:
    """Set the environment; what the user's shell says otherwise does not count.

    Uploaded files, which Gradio keeps for a day, go to a folder nobody else can read.
    """
    uploads = cache_dir() / "uploads"
    uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
    uploads.chmod(0o700)  # also where an older version made it
    os.environ.update(SETTINGS, GRADIO_TEMP_DIR=str(uploads))
    for name in FROM_OUTSIDE:
        os.environ.pop(name, None)
