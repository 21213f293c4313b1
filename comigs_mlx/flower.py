"""`python -m comigs_mlx.flower`: a federation with a server, carried by Flower."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comigs_mlx import command
from comigs_mlx.config import parse, split
from comigs_mlx.errors import ConfigError
from comigs_mlx.federation.flower.options import ClientConfig, ServerConfig

if TYPE_CHECKING:
    from comigs_mlx.federation.flower.node_folder import NodeFolder
    from comigs_mlx.federation.flower.processes import Link

SERVER_WAIT = 24 * 3600
"""The seconds that a participant waits for a round to be closed, unless it says."""


def main(argv: Sequence[str] | None = None) -> None:
    """Do one of client, server."""
    kinds = {"client": ClientConfig, "server": ServerConfig}
    summaries = {n: (kind.__doc__ or "").splitlines()[0] for n, kind in kinds.items()}
    action, flags = command.action(argv, "comigs_mlx.flower", summaries)
    ACTIONS[action](flags)


def _client(flags: Sequence[str]) -> None:
    """Take part: a SuperNode beside the training."""
    config, others = split(ClientConfig, "comigs_mlx.flower client", flags)
    _check_others(others)
    command.check_installed("flwr")
    from comigs_mlx import train
    from comigs_mlx.federation.flower import processes
    from comigs_mlx.federation.flower.participant import answering
    from comigs_mlx.federation.flower.served import ServedExchange

    processes.check_programs()
    link = processes.Link(
        config.superlink,
        config.insecure,
        _file("--root-certificates", config.root_certificates),
    )
    key = _file("--node-key", config.node_key)
    _explain(config.mode)
    exchange = ServedExchange(f"flower://{config.superlink}", config.patience)
    with answering(exchange, config.mode, command.say) as (folder, through):
        given = link, folder, key, _log(config.log, folder)
        start = lambda: processes.supernode(*given)
        with processes.KeptRunning(start, command.say) as node:
            exchange.check = node.check
            train.main([*others, *_waiting(others, exchange.uri)], through)


def _check_others(others: Sequence[str]) -> None:
    if any(word.split("=")[0] == "--federation" for word in others):
        raise ConfigError(
            "--federation has no effect here: the federation is the server's at "
            "--superlink; leave it out"
        )


def _waiting(others: Sequence[str], uri: str) -> list[str]:
    """Return the options of `train` that follow from there being a server."""
    given = any(word.split("=")[0] == "--wait" for word in others)
    return ["--federation", uri, *([] if given else ["--wait", str(SERVER_WAIT)])]


def _server(flags: Sequence[str]) -> None:
    """Serve a federation's folder."""
    config = parse(ServerConfig, "comigs_mlx.flower server", flags)
    command.check_installed("flwr")
    from comigs_mlx.federation.flower import processes, secure
    from comigs_mlx.federation.flower.local import private_folder
    from comigs_mlx.federation.flower.node_folder import NodeFolder
    from comigs_mlx.federation.rounds import repository

    processes.check_programs()
    exchange = NodeFolder(Path(config.federation).expanduser())
    federation = repository.current(exchange)
    if config.mode == "secure":
        secure.check(federation.manifest)
    _explain(config.mode)
    with private_folder() as folder, _link(config, folder) as link:
        _lead(config, exchange, link, folder)


@contextlib.contextmanager
def _link(config: ServerConfig, folder: Path) -> Iterator[Link]:
    """Give the SuperLink: a new one, or the one that runs already."""
    from comigs_mlx.federation.flower import processes

    tls = [_needed("--certificate", file) for file in config.tls]
    here = processes.reached_at(config.host, config.port)
    link = processes.Link(config.superlink or here, not tls, tls[-1] if tls else None)
    if config.superlink is not None:
        yield link
        return
    processes.check_free(link)
    keys = None if config.node_keys is None else _public_keys(config.node_keys)
    listening = config.host, config.port, folder, tls, keys is not None
    with processes.superlink(*listening, _log(config.log, folder)) as running:
        processes.await_port(link, running)
        processes.register(link, folder, keys or [])
        command.say(f"the SuperLink listens at {config.host}:{config.port}")
        yield link


def _lead(config: ServerConfig, exchange: NodeFolder, link: Link, folder: Path) -> None:
    """Start the ServerApp, and lead the rounds through it."""
    from comigs_mlx.federation.flower import leading, processes
    from comigs_mlx.federation.flower.server import Limits

    limits = Limits(config.wait, min(config.answer, config.wait))
    with leading.connected(
        folder, lambda: processes.start_run(link, folder), config.mode
    ) as connection:
        keys = config.node_keys is not None
        if config.mode == "secure":
            leading.lead_securely(
                connection,
                exchange,
                config.rounds,
                limits,
                config.clipping_range,
                command.say,
            )
        else:
            leading.lead(connection, exchange, config.rounds, limits, keys, command.say)
    command.show(str(Path(config.federation)))


def _explain(mode: str) -> None:
    """Say what the secure mode gives up, before anything is sent."""
    if mode == "secure":
        from comigs_mlx.federation.flower.secure import LOST
        from comigs_mlx.messages import Note

        command.say(Note(LOST))


def _public_keys(folder: str) -> list[Path]:
    keys = sorted(Path(folder).expanduser().glob("*.pub"))
    if not keys:
        raise ConfigError(f"--node-keys: there is no *.pub file in {folder}")
    return keys


def _file(flag: str, name: str | None) -> Path | None:
    return None if name is None else _needed(flag, name)


def _needed(flag: str, name: str) -> Path:
    file = Path(name).expanduser()
    if not file.is_file():
        raise ConfigError(f"{flag}: there is no file {name}")
    return file.absolute()


def _log(chosen: str | None, folder: Path) -> Path:
    if chosen is None:
        return folder / "flower.log"
    file = Path(chosen).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


ACTIONS: dict[str, Callable[[Sequence[str]], None]] = {
    "client": _client,
    "server": _server,
}


if __name__ == "__main__":
    command.run(main)
