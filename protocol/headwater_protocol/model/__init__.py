"""The numeric core: fixed-point models, quantized deltas, their codec and exact aggregation.

Everything here is a pure function of integers, apart from the two edges where a device or an
evaluator enters and leaves with float32 (`fixed_point.to_float32`, `quantize.quantize`). Two
processors that are given the same ledger therefore compute the same bytes.
"""
