"""The secure rounds of the ServerApp: Flower's SecAgg+, in its legacy workflow.

Flower 1.42 has secure aggregation only there. The strategy asks the process that keeps
the federation's folder what to send, and gives it the mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.common import (
    FitIns,
    FitRes,
    Parameters,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import LegacyContext, ServerConfig
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid

from comigs_mlx.federation.flower import masking
from comigs_mlx.federation.flower.packet import Packet
from comigs_mlx.federation.flower.secure import STEPS

Ask = Callable[[Packet], Packet]

ATTEMPTS = 100_000
"""More rounds than there are: the other process says when it is over."""

SHARES = 2 / 3
"""The part of the shares that opens a mask; participants ask for more than half."""

LOOK_SECONDS = 1.0


def run(grid: Grid, context: Context, ask: Ask) -> None:
    """Aggregate securely until the other process says that it is over."""
    masking.use_strong_masks()
    workflow = SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=SHARES,
        max_weight=1.0,
        quantization_range=STEPS,
        modulus_range=masking.MODULUS,
    )
    strategy = Means(ask, workflow)
    legacy = LegacyContext(context, ServerConfig(ATTEMPTS), strategy)
    try:
        DefaultWorkflow(workflow, lambda grid, context: None)(grid, legacy)
    except Over:
        return


class Over(Exception):
    """The end of all rounds, which Flower's workflow has no word for."""


class Means(Strategy):
    """Tells the workflow whom to ask, and gives the mean of what comes to `ask`.

    Args:
        ask: Sends a packet to the process that keeps the folder, and returns its
            answer.
        workflow: The workflow, whose range and timeout are set for each round.
    """

    def __init__(self, ask: Ask, workflow: SecAggPlusWorkflow):
        self.ask, self.workflow = ask, workflow

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Return nothing that anybody uses: participants get whole files."""
        del client_manager
        return ndarrays_to_parameters([np.zeros(1, np.uint8)])

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Wait until enough nodes are connected, and send them the state of the round.

        Raises:
            Over: If there are no more rounds.
        """
        while True:
            nodes = client_manager.all() if client_manager.num_available() else {}
            numbers = sorted(proxy.node_id for proxy in nodes.values())
            named = [str(number) for number in numbers]
            told = self.ask(Packet({"kind": "round", "nodes": named}))
            if told.kind == "over":
                raise Over
            if told.kind == "go":
                break
            time.sleep(LOOK_SECONDS)
        self.workflow.clipping_range = float(told.about["range"])
        self.workflow.timeout = float(told.about["seconds"])
        message = np.frombuffer(told.files["message"], np.uint8)
        given = FitIns(ndarrays_to_parameters([message]), {})
        return [(proxy, given) for proxy in nodes.values()]

    def aggregate_fit(
        self, server_round: int, results: Any, failures: Any
    ) -> tuple[Parameters | None, dict[str, Any]]:
        """Give the mean, which Flower has put into every result, to the folder."""
        pairs: list[tuple[ClientProxy, FitRes]] = results
        mean = parameters_to_ndarrays(pairs[0][1].parameters)[0].astype(np.float32)
        nodes = [str(proxy.node_id) for proxy, _ in pairs]
        about = {"kind": "mean", "nodes": nodes, "failed": len(failures)}
        self.ask(Packet(about, {"mean": mean.tobytes()}))
        return None, {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, Any]]:
        """Evaluate nothing: each participant measures for itself."""
        return []

    def aggregate_evaluate(
        self, server_round: int, results: Any, failures: Any
    ) -> tuple[float | None, dict[str, Any]]:
        """Evaluate nothing."""
        return None, {}

    def evaluate(self, server_round: int, parameters: Parameters) -> None:
        """Evaluate nothing."""
        return
