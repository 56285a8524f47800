"""From a request of ABCI to its answer."""

from headwater_protocol.errors import InvalidMessage
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.cometbft.desk import SnapshotDesk
from headwater_shard.engine.cometbft.replica import Replica
from headwater_shard.engine.cometbft.wire import abci_pb2


class UnknownRequest(InvalidMessage):
    """A call that ABCI 2.0 does not have."""

    reason = ReasonCode.BAD_ENCODING


def answer(
    replica: Replica, snapshots: SnapshotDesk, request: abci_pb2.Request
) -> abci_pb2.Response:
    """The answer to one request.

    Raises:
        HeadwaterError: If the replica cannot go on, or the request is unknown.
    """
    kind = request.WhichOneof("value")
    response = abci_pb2.Response()
    if kind == "check_tx":
        response.check_tx.CopyFrom(replica.check_tx(request.check_tx))
    elif kind == "flush":
        response.flush.SetInParent()
    elif kind == "process_proposal":
        response.process_proposal.CopyFrom(replica.process_proposal(request.process_proposal))
    elif kind == "prepare_proposal":
        response.prepare_proposal.CopyFrom(replica.prepare_proposal(request.prepare_proposal))
    elif kind == "extend_vote":
        response.extend_vote.CopyFrom(replica.extend_vote(request.extend_vote))
    elif kind == "verify_vote_extension":
        response.verify_vote_extension.CopyFrom(
            replica.verify_vote_extension(request.verify_vote_extension)
        )
    elif kind == "finalize_block":
        response.finalize_block.CopyFrom(replica.finalize_block(request.finalize_block))
    elif kind == "commit":
        response.commit.CopyFrom(replica.commit())
    elif kind == "info":
        response.info.CopyFrom(replica.info())
    elif kind == "init_chain":
        response.init_chain.CopyFrom(replica.init_chain(request.init_chain))
    elif kind == "query":
        response.query.CopyFrom(replica.query(request.query))
    elif kind == "echo":
        response.echo.message = request.echo.message
    elif kind == "list_snapshots":
        response.list_snapshots.CopyFrom(snapshots.list_snapshots())
    elif kind == "load_snapshot_chunk":
        response.load_snapshot_chunk.CopyFrom(snapshots.load_chunk(request.load_snapshot_chunk))
    elif kind == "offer_snapshot":
        response.offer_snapshot.CopyFrom(snapshots.offer(request.offer_snapshot))
    elif kind == "apply_snapshot_chunk":
        response.apply_snapshot_chunk.CopyFrom(snapshots.apply_chunk(request.apply_snapshot_chunk))
    else:
        raise UnknownRequest("a request that ABCI 2.0 does not have")
    # A message without fields leaves no trace otherwise, and the answer would have no kind.
    getattr(response, str(kind)).SetInParent()
    return response
