"""Bugs to be planted, one for each invariant: each breaks the rule that keeps it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headwater_agent.device import Device
from headwater_agent.state import DeviceState
from headwater_firmware_sim.virtual.chain import ChainDisk
from headwater_firmware_sim.virtual.compute import Compute
from headwater_gateway.machine.intake import Intake
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import Digest, RoundNumber, Units
from headwater_protocol.model.fixed_point import decode_model, encode_model
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication
from headwater_shard.engine.bft import signer, votes
from headwater_shard.mainchain import ledger as mainchain
from headwater_shard.mainchain.justice import downtime, penalty
from headwater_shard.mainchain.market import claims
from headwater_shard.mainchain.records import ACCOUNTS, MAIN, MAIN_KEY
from headwater_shard.mainchain.staking import election
from headwater_shard.shardchain import checkpoints, collect, rounds

Plant = Callable[[pytest.MonkeyPatch], None]


def weaken_quorum(patch: pytest.MonkeyPatch) -> None:
    """I1: a third of the power decides; a lone proposer that nobody answers decides alone."""
    patch.setattr(votes.Electorate, "is_quorum", lambda self, power: power * 4 >= self.total_power)
    from headwater_protocol.chain import committee

    patch.setattr(
        committee.Committee, "is_quorum", lambda self, power: power * 4 >= self.total_power
    )


def execute_unlike(patch: pytest.MonkeyPatch) -> None:
    """I2: an execution depends on something that is not in the block."""
    execute = LedgerApplication._execute
    count = [0]

    def wrong(self: LedgerApplication, context: Any) -> Any:
        state, execution = execute(self, context)
        count[0] += 1
        if self._cache is not None and count[0] % 7 == 0:
            execution = replace(execution, state_root=blob_digest(execution.state_root))
        return state, execution

    patch.setattr(LedgerApplication, "_execute", wrong)


def mint(patch: pytest.MonkeyPatch) -> None:
    """I3: settling a checkpoint makes a unit out of nothing."""
    process = mainchain.process_checkpoint

    def wrong(draft: Any, *arguments: Any, **named: Any) -> None:
        process(draft, *arguments, **named)
        key, account = draft.sorted_items(ACCOUNTS)[0]
        draft.put(ACCOUNTS, key, replace(account, balance=Units(account.balance + 1)))

    patch.setattr(mainchain, "process_checkpoint", wrong)


def take_twice(patch: pytest.MonkeyPatch) -> None:
    """I4: a ledger takes an update that it has, and a gateway hands it in again."""
    patch.setattr(collect, "_require_takes", lambda *_: None)
    patch.setattr("headwater_gateway.machine.intake.update_key", lambda *_: b"never")


def aggregate_wrongly(patch: pytest.MonkeyPatch) -> None:
    """I5: delegates compute another model than the updates make."""
    compute = Compute.model

    def wrong(self: Compute, work: Any) -> Digest | None:
        return _bump(self, compute(self, work))

    patch.setattr(Compute, "model", wrong)


def overpay(patch: pytest.MonkeyPatch) -> None:
    """I6: a device gets a unit more than its round says."""
    pay = rounds.pay

    def wrong(draft: Any, rewards: Any) -> None:
        device = min(rewards.devices)
        more = {**rewards.devices, device: rewards.devices[device] + 1}
        pay(draft, replace(rewards, devices=more))

    patch.setattr(rounds, "pay", wrong)


def misstate_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """I7: a checkpoint names another state root."""
    make = checkpoints.Checkpoint

    def wrong(**fields: Any) -> Any:
        return make(**{**fields, "state_root": blob_digest(fields["state_root"])})

    patch.setattr(checkpoints, "Checkpoint", wrong)


def merge_wrongly(patch: pytest.MonkeyPatch) -> None:
    """I8: delegates merge to another model than the inputs make."""
    compute = Compute.merge

    def wrong(self: Compute, work: Any) -> Digest | None:
        return _bump(self, compute(self, work))

    patch.setattr(Compute, "merge", wrong)


def promise_early(patch: pytest.MonkeyPatch) -> None:
    """I9: a gateway gives a receipt before the ledger has the update."""
    take = Intake.on_taken_in

    def wrong(self: Intake, work: Any, reasons: Any, now_ms: int) -> Any:
        for effect in take(self, work, reasons, now_ms):
            for commit in getattr(effect, "commits", ()):
                yield self._receipt(
                    work.round, commit.device, commit.payload, ReasonCode.OK, now_ms
                )
            yield effect

    patch.setattr(Intake, "on_taken_in", wrong)


def forget_rounds(patch: pytest.MonkeyPatch) -> None:
    """I10: flash loses which round was signed last, and the residual that makes it differ."""
    make = Device.__init__

    def wrong(self: Device, **named: Any) -> None:
        state: DeviceState = named["state"]
        named["state"] = replace(state, last_signed_round=RoundNumber(0), outbox=None)
        make(self, **named)

    patch.setattr(Device, "__init__", wrong)


def forget_votes(patch: pytest.MonkeyPatch) -> None:
    """I11: what a delegate signed does not survive a crash."""
    patch.setattr(ChainDisk, "saved", lambda *_: None)
    patch.setattr(signer.Signer, "_may_sign", lambda *_: True)


def punish_at_once(patch: pytest.MonkeyPatch) -> None:
    """I12: one certificate without a delegate's signature is downtime."""
    count = downtime.count_downtime

    def wrong(draft: Any, parameters: Any, context: Any) -> None:
        count(draft, replace(parameters, max_missed_blocks=0), context)

    patch.setattr(mainchain, "count_downtime", wrong)


def elect_by_first_stake(patch: pytest.MonkeyPatch) -> None:
    """I13: an election takes the powers of the last epoch, whatever became of the stake."""
    elect = election.elect_delegates

    def wrong(state: Any, parameters: Any) -> Any:
        elected = elect(state, parameters)
        main = state.get(MAIN, MAIN_KEY)
        return {who: main.committee.power_of(who) or power for who, power in elected.items()}

    patch.setattr(election, "elect_delegates", wrong)


def burn_half(patch: pytest.MonkeyPatch) -> None:
    """I14: half of what is to be burned goes to somebody."""
    burn = penalty.burn

    def wrong(draft: Any, units: int) -> None:
        burn(draft, units // 2)
        key, account = draft.sorted_items(ACCOUNTS)[0]
        draft.put(
            ACCOUNTS, key, replace(account, balance=Units(account.balance + units - units // 2))
        )

    patch.setattr(penalty, "burn", wrong)


def pay_somebody_else(patch: pytest.MonkeyPatch) -> None:
    """I15: all rewards of a batch of claims go to its first account."""
    pay = claims.pay_account
    first: list[Any] = []

    def wrong(draft: Any, account: Any, units: int) -> None:
        first.append(account)
        pay(draft, first[0], units)

    patch.setattr(claims, "pay_account", wrong)


def _bump(compute: Compute, model: Digest | None) -> Digest | None:
    if model is None:
        return None
    decoded = decode_model(compute.blobs.get(model), max_parameters=1 << 20)
    parameters = decoded.parameters.copy()
    parameters[0] += 1
    return compute.blobs.put(encode_model(replace(decoded, parameters=parameters)))


PLANTS: dict[str, Plant] = {
    "I1": weaken_quorum,
    "I2": execute_unlike,
    "I3": mint,
    "I4": take_twice,
    "I5": aggregate_wrongly,
    "I6": overpay,
    "I7": misstate_checkpoint,
    "I8": merge_wrongly,
    "I9": promise_early,
    "I10": forget_rounds,
    "I11": forget_votes,
    "I12": punish_at_once,
    "I13": elect_by_first_stake,
    "I14": burn_half,
    "I15": pay_somebody_else,
}
