"""The ClientApp: passes each message to the trainer of this participant, and its answer
back. It runs in a process of its own for every message, so it loads nothing else.

Plain messages are queries; train messages are those of secure aggregation, of which
only the third stage asks the trainer for its update.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Context, Message
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import (
    Code,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.compat.common import recorddict_compat as compat

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.flower import local, masking, records
from comigs_mlx.federation.flower.packet import PACKET_BYTES, unpack

LONGEST_SECONDS = 25 * 3600.0
"""The most seconds that the trainer has; the server's message says how many it has."""

masking.use_strong_masks()
app = ClientApp(mods=[masking.guarded(secaggplus_mod)])


@app.query()  # type: ignore[untyped-decorator,unused-ignore]
def carry(message: Message, context: Context) -> Message:
    """Pass a plain message on."""
    answer = _ask(records.content(message.content), context)
    return Message(records.record(answer), reply_to=message)


@app.train()  # type: ignore[untyped-decorator,unused-ignore]
def update(message: Message, context: Context) -> Message:
    """Get the trainer's update, which secaggplus_mod masks before it leaves."""
    given = compat.recorddict_to_fitins(message.content, keep_input=True)
    question = parameters_to_ndarrays(given.parameters)[0].tobytes()
    answer = unpack(_ask(question, context))
    if "update" not in answer.files:
        raise FederationError(str(answer.about.get("why", "the trainer has no update")))
    values = np.frombuffer(answer.files["update"], np.float32)
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([values]), 1, {})
    return Message(compat.fitres_to_recorddict(result, False), reply_to=message)


def _ask(question: bytes, context: Context) -> bytes:
    path = str(context.node_config["socket"])
    return local.ask(path, question, LONGEST_SECONDS, PACKET_BYTES)
