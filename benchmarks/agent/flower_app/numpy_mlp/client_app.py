"""The client: one node, one file of examples, which its node configuration names."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from numpy_mlp.mlp import train

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Train the model in the message and answer with what came of it."""
    with np.load(str(context.node_config["data"])) as data:
        features, labels = data["features"], data["labels"]
    arrays = message.content["arrays"].to_numpy_ndarrays()
    trained, loss = train(arrays, features, labels, seed=int(context.run_id) % 2**32)
    metrics = MetricRecord({"num-examples": len(labels), "loss": loss})
    return Message(
        content=RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}),
        reply_to=message,
    )
