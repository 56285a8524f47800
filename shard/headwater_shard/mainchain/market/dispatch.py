"""Which transition a market transaction is."""

from headwater_protocol.chain.market import (
    BuyLicence,
    ClaimRewards,
    ClaimRoyalties,
    CloseTask,
    GrantAccess,
    LockDeposit,
    MarketBody,
    OpenTask,
    SetPrice,
    SettleDeposit,
)
from headwater_protocol.identifiers import AccountId
from headwater_shard.engine.border import BlockContext
from headwater_shard.mainchain.market.access import process_grant, process_revoke
from headwater_shard.mainchain.market.claims import process_claim_rewards
from headwater_shard.mainchain.market.deposits import process_lock, process_settle
from headwater_shard.mainchain.market.models import (
    process_buy,
    process_claim_royalties,
    process_set_price,
)
from headwater_shard.mainchain.market.tasks import process_close_task, process_open_task
from headwater_shard.state.draft import Draft


def process_market(
    draft: Draft, body: MarketBody, sender: AccountId, context: BlockContext
) -> None:
    """Execute one market transaction.

    Raises:
        InvalidMessage: If it breaks a rule.
    """
    match body:
        case OpenTask():
            process_open_task(draft, body, sender)
        case CloseTask():
            process_close_task(draft, body, sender)
        case ClaimRewards():
            process_claim_rewards(draft, body)
        case LockDeposit():
            process_lock(draft, body, sender)
        case SettleDeposit():
            process_settle(draft, body)
        case SetPrice():
            process_set_price(draft, body, sender)
        case BuyLicence():
            process_buy(draft, body, sender, context.height)
        case ClaimRoyalties():
            process_claim_royalties(draft, body)
        case GrantAccess():
            process_grant(draft, body, sender, context.height)
        case _:
            process_revoke(draft, body, sender)
