"""The page on plain data: parrot_page PORT RUNS DELAY [MOST [CONTEXT]]."""

import sys

from app import local_only
from app.model_queue import ModelQueue
from app.options import AppConfig
from tests.app.speaking import Parrot


def main(port, runs, delay, most="", context=""):
    local_only.keep()
    from app import layout, server

    config = AppConfig(port=int(port), runs=runs)
    most, context = (int(one) if one else None for one in (most, context))
    model_queue = ModelQueue(
        lambda say: Parrot(float(delay), most=most, context=context)
    )
    page = layout.build(config, model_queue)
    server.launch(page, config, block=False)
    model_queue.submit("Loading", lambda engine: engine.choose(None))
    page.block_thread()


if __name__ == "__main__":
    main(*sys.argv[1:])
