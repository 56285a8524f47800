"""The messages of CometBFT, generated from the `.proto` files beside this; `make protos`."""
