"""What our SuperNode starts for a message in the place of Flower's flwr-clientapp.

A server sends an app along with its messages, and Flower's own program unpacks and runs
it: with the rights of the participant, and with its text in reach. This one runs the
ClientApp of the installed package, whatever was sent, and unpacks nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from comigs_mlx.environment import send_no_telemetry
from comigs_mlx.errors import FederationError


def main() -> None:
    """Answer one message with our own ClientApp."""
    send_no_telemetry()
    given = _arguments()
    # Not flwr.supernode.cli, whose import takes twice as long.
    from flwr.supernode.runtime import run_clientapp

    for name in ("install_from_fab", "get_load_client_app_fn"):
        if not hasattr(run_clientapp, name):
            raise FederationError(
                "this version of flwr runs apps in another way than 1.42: install "
                "'comigs-mlx[flower]'"
            )
    replaced: Any = run_clientapp
    replaced.install_from_fab = lambda *_, **__: None
    replaced.get_load_client_app_fn = lambda *_, **__: _ours
    certificates = given.root_certificates
    replaced.run_clientapp(
        runtime_api_address=given.runtime_api_address,
        token=given.token,
        insecure=given.insecure,
        certificates=None if certificates is None else certificates.read_bytes(),
        parent_pid=given.parent_pid,
        runtime_dependency_install=False,
    )


def _arguments() -> argparse.Namespace:
    """Read what a SuperExec of flwr 1.42 gives to a ClientApp's process."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--root-certificates", type=Path)
    parser.add_argument("--parent-pid", type=int)
    return parser.parse_args()


def _ours(*sent: Any) -> Any:
    from comigs_mlx.federation.flower import client_app

    del sent
    return client_app.app


if __name__ == "__main__":
    main()
