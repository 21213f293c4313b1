"""The page with a speaker of plain data: python -m tests.app.parrot_page PORT RUNS."""

import sys

from app import local_only
from app.model_queue import ModelQueue
from app.options import AppConfig
from tests.app.speaking import Parrot


def main(port, runs, delay):
    local_only.keep()
    from app import layout, server

    config = AppConfig(port=int(port), runs=runs)
    office = ModelQueue(lambda: Parrot(delay=float(delay)))
    page = layout.build(config, office)
    server.launch(page, config, block=False)
    office.submit("Loading", lambda speaker: speaker.choose(None))
    page.block_thread()


if __name__ == "__main__":
    main(*sys.argv[1:])
