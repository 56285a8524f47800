"""`receipts`: the signed receipts that prove what the device is owed."""

import argparse
from typing import TYPE_CHECKING

from headwater_agent.cli.common import add_json, print_json, print_table, read_config

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "receipts", parents=[common], help="signed receipts, the proof of rewards"
    )
    parser.add_argument(
        "--since-round", type=int, default=1, metavar="N", help="leave earlier rounds out"
    )
    add_json(parser)
    parser.set_defaults(perform=_receipts)


def _receipts(arguments: argparse.Namespace) -> int:
    from headwater_agent.report.receipts import describe_proof
    from headwater_agent.storage.reading import read_proofs

    config = read_config(arguments)
    proofs = read_proofs(config.state, since_round=arguments.since_round)
    if arguments.json:
        described = [describe_proof(proof) for proof in proofs]
        print_json({"network": config.network.hex(), "receipts": described})
        return 0
    rows: list[tuple[str, ...]] = [("round", "stage", "reason", "score", "reward", "gateway")]
    rows += [
        (
            str(receipt.round),
            receipt.stage.value,
            receipt.reason.value,
            str(receipt.score),
            str(receipt.reward),
            receipt.gateway.hex()[:16],
        )
        for receipt in (proof.receipt for proof in proofs)
    ]
    print_table(rows)
    return 0
