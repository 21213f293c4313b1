"""The page on plain data: python -m tests.app.parrot_page PORT RUNS DELAY [MOST]."""

import sys

from app import local_only
from app.model_queue import ModelQueue
from app.options import AppConfig
from tests.app.speaking import Parrot


def main(port, runs, delay, most=None):
    local_only.keep()
    from app import layout, server

    config = AppConfig(port=int(port), runs=runs)
    model_queue = ModelQueue(lambda say: Parrot(float(delay), most=most and int(most)))
    page = layout.build(config, model_queue)
    server.launch(page, config, block=False)
    model_queue.submit("Loading", lambda engine: engine.choose(None))
    page.block_thread()


if __name__ == "__main__":
    main(*sys.argv[1:])
