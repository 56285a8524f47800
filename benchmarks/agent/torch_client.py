"""The client side of `torch_side.py`; runs under Debian's Python with Debian's torch."""

import socket
import struct
import sys

import numpy as np
import torch

NUM_PARAMETERS = 64 * 32 + 32 + 32 * 10 + 10
EPOCHS, BATCH_SIZE, LEARNING_RATE = 5, 16, 0.01

torch.set_num_threads(1)
torch.manual_seed(1)
with np.load(sys.argv[2]) as data:
    features = torch.from_numpy(data["features"].astype(np.float32))
    labels = torch.from_numpy(data["labels"].astype(np.int64))
network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
first = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
compute_loss = torch.nn.CrossEntropyLoss()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    stream = connection.makefile("rwb")
    stream.write(f"{torch.__version__}\n".encode())
    stream.flush()
    while message := stream.read(4 * NUM_PARAMETERS):
        model = torch.from_numpy(np.frombuffer(message, dtype="<f4").copy())
        # The first model is all zeros, from which ReLU learns nothing: the client starts its own.
        model = first if not bool(model.any()) else model
        torch.nn.utils.vector_to_parameters(model.clone(), network.parameters())
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        total, steps = 0.0, 0
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
                optimizer.zero_grad()
                loss = compute_loss(network(features[batch]), labels[batch])
                loss.backward()
                optimizer.step()
                total, steps = total + loss.item(), steps + 1
        trained = torch.nn.utils.parameters_to_vector(network.parameters()).detach().numpy()
        stream.write(struct.pack("<f", total / steps) + trained.astype("<f4").tobytes())
        stream.flush()
