"""The server: federated averaging over the one client; writes the losses to a file at the end."""

import json
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from numpy_mlp.mlp import make_arrays

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; every one of them needs the client's answer."""
    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(make_arrays()),
        num_rounds=int(context.run_config["rounds"]),
    )
    losses = [float(one["loss"]) for one in result.train_metrics_clientapp.values()]
    Path(str(context.run_config["result"])).write_text(json.dumps(losses))
