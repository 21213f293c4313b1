"""`python trainer.py FILE MODE train-flags...`: train, and answer at a socket.

FILE is written with the path of the socket.
It is `flower client` without Flower: who asks at the socket is the server.
"""

import sys
from pathlib import Path

import comigs_mlx  # noqa: F401  isort: skip

from comigs_mlx import command, train
from comigs_mlx.federation.flower.local import NAME
from comigs_mlx.federation.flower.participant import answering
from comigs_mlx.federation.flower.served import ServedExchange
from comigs_mlx.files import write_text


def main():
    file, mode, *flags = sys.argv[1:]
    exchange = ServedExchange("flower://server:1", 60.0)
    with answering(exchange, mode, command.say) as (folder, connection):
        write_text(Path(file), str(folder / NAME))
        train.main([*flags, "--federation", exchange.uri], connection)


command.run(main)
