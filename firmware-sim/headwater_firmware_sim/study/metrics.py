"""A run in one row."""

from headwater_firmware_sim.output.tables import Cell
from headwater_firmware_sim.report.measures import final_fairness, list_round_totals, share
from headwater_firmware_sim.results import RunResult


def summarise(result: RunResult) -> dict[str, Cell]:
    """The numbers that runs are compared by; shares are 0 to 1."""
    totals = list_round_totals(result.rounds)
    fairness = final_fairness(result)
    final = result.final
    return {
        "accuracy": final.accuracy,
        "loss": final.loss,
        "backdoor": final.backdoor,
        "rounds": len(result.rounds),
        "participation": share(
            sum(row.updates for row in totals), sum(row.cohort for row in totals)
        ),
        "accepted": sum(row.accepted for row in totals),
        "rejected": sum(sum(row.rejected.values()) for row in totals),
        "attackers_refused": share(
            sum(row.attackers_refused for row in totals),
            sum(row.attackers_judged for row in totals),
        ),
        "honest_refused": share(
            sum(row.honest_refused for row in totals), sum(row.honest_judged for row in totals)
        ),
        "bytes_up": sum(row.bytes_up for row in totals),
        "paid": sum(row.paid for row in totals),
        "gini": fairness.gini,
        "jain": fairness.jain,
        "checkpoints": len(result.checkpoints),
        "merges": final.merges,
        "is_complete": final.is_complete,
        "audit": final.audit,
        "virtual_ms": result.virtual_ms,
        "wall_ms": result.wall_ms,
        "peak_memory_bytes": result.peak_memory_bytes,
        "main_chain_digest": final.main_chain_digest,
    }
