"""Downtime: delegates whose signatures are missing from too many certificates.

Every block carries the certificate of the one before, with all precommits that its leader knew:
a block stands with the first quorum, and a precommit that comes later joins the certificate that
the next leader writes. So an honest delegate is missing where it was down or cut off, where its
vote took longer than a block, and where a Byzantine leader left it out, which holds for less than
a third of the blocks. `Parameters.max_missed_blocks` leaves room for all of that.

The main chain alone is counted: every elected delegate serves it, whatever its shard.
"""

from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.justice import Offence
from headwater_protocol.identifiers import MAIN_CHAIN, Height, ValidatorId
from headwater_shard.engine.border import BlockContext
from headwater_shard.mainchain.justice.penalty import punish
from headwater_shard.mainchain.justice.records import LIVENESS, Charge, Liveness
from headwater_shard.mainchain.justice.terms import begin_of, get_epoch_at
from headwater_shard.mainchain.records import CANDIDATES, EPOCHS
from headwater_shard.state.draft import Draft


def count_downtime(draft: Draft, parameters: Parameters, context: BlockContext) -> None:
    """Count who is missing from the last certificate; jail who missed more than is allowed.

    To be called before the block can change the epoch.
    """
    if context.last_certificate is None:
        return
    signed_height = Height(context.height - 1)
    epoch = draft.get_existing(EPOCHS, epoch_key(get_epoch_at(draft, signed_height)))
    signers = {entry.validator for entry in context.last_certificate.signatures}
    window = signed_height // parameters.downtime_window_blocks
    for delegate in epoch.committee.delegates:
        if delegate.validator not in signers:
            _miss(
                draft,
                parameters,
                delegate.validator,
                window=window,
                height=context.height,
                since=begin_of(epoch),
            )


def _miss(
    draft: Draft,
    parameters: Parameters,
    validator: ValidatorId,
    *,
    window: int,
    height: Height,
    since: Height,
) -> None:
    candidate = draft.get(CANDIDATES, validator)
    if candidate is None or candidate.jailed_until > 0 or candidate.is_tombstoned:
        return
    known = draft.get(LIVENESS, validator)
    missed = 1 if known is None or known.window != window else known.missed + 1
    if missed <= parameters.max_missed_blocks:
        draft.put(LIVENESS, validator, Liveness(window=window, missed=missed))
        return
    draft.delete(LIVENESS, validator)
    punish(
        draft,
        parameters,
        Charge(
            validator=validator,
            offence=Offence.DOWNTIME,
            chain=MAIN_CHAIN,
            place=height - 1,
            part=0,
        ),
        infraction_height=since,
        height=height,
        reporter=None,
    )
