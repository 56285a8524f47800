"""Two gateways of one network as processes: one drives the chains, the other one follows them.

The embedded engine runs in one process, so here that process votes for all validators, while each
gateway does the duties of its own half of the delegates and has a store of its own. The second one
reads the first one's ledger, replays every block, and sends its transactions over HTTP. Neither
half is a quorum: no round gets a model unless both can get every payload.

    python -m tests.support.gateway_pair engine|follower CONFIG OPTIONS.json
"""

import asyncio
import json
import logging
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from headwater_gateway.config import load_config
from headwater_gateway.journal import is_complete
from headwater_gateway.launch import prepare
from headwater_gateway.machine.effects import Submit
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_gateway.shell.chain import ChainHost, StepResult
from headwater_gateway.shell.exchange import ExchangeSetup
from headwater_gateway.shell.mqtt import ignore_lost_connections
from headwater_gateway.shell.service import GatewayService, ServiceSetup
from headwater_gateway.web.config import WebConfig
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey, Verifier
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.border import BlockContext
from headwater_shard.layout import DataFolder
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.state.state import State
from headwater_shard.store import LedgerStore

POLL_MS = 50
"""Between two looks at the other process' ledger."""
LINGER_S = 2.0
"""For which the one that is done first still serves the other."""


class FollowingHost:
    """A chain whose engine runs in another process, replayed block by block."""

    def __init__(self, genesis: Genesis, chain: ChainId, *, source: Path, url: str) -> None:
        self.chain = chain
        self.updates: tuple[EpochUpdate, ...] = ()
        self._url = url
        self._source = source
        self._app = LedgerApplication(make_ledger(genesis, chain), DirectVerifier())
        self._tip: FinalizedTip | None = None

    @property
    def height(self) -> Height:
        return self._app.height

    @property
    def state(self) -> State:
        return self._app.state

    @property
    def tip(self) -> FinalizedTip | None:
        return self._tip

    def listen(self, wake: Callable[[], None]) -> None:
        """The other process wakes nobody: each step asks for the next one in `POLL_MS`."""

    def step(self, submissions: Sequence[Submit], now_ms: int) -> StepResult:
        reasons = tuple((submit, self._send(submit)) for submit in submissions)
        transactions: list[bytes] = []
        updates: list[EpochUpdate] = []
        before = self._app.height
        try:
            with LedgerStore.open_read_only(self._source) as store:
                for final in store.iter_blocks(Height(before + 1)):
                    header = final.block.header
                    context = BlockContext(
                        height=header.height,
                        time_ms=header.time_ms,
                        proposer=header.proposer,
                        previous=header.previous,
                        last_certificate=final.block.last_certificate,
                        transactions=final.block.transactions,
                    )
                    execution = self._app.finalize_block(context)
                    assert execution.state_root == header.state_root
                    self._app.commit(context)
                    transactions += final.block.transactions
                    self._tip = FinalizedTip(
                        block=final.block, certificate=final.certificate, state=self._app.state
                    )
                    if self.chain == MAIN_CHAIN:
                        update = make_epoch_update(self._app.state, header, final.certificate)
                        if update is not None and is_handover(update):
                            updates.append(update)
        except StorageError:  # the other one has not made it yet
            if before:
                raise
        moved = self._app.height - before
        return StepResult(
            reasons=reasons,
            tip=self._tip if moved else None,
            num_finalized=moved,
            transactions=tuple(transactions),
            equivocations=(),
            updates=tuple(updates),
            next_timer_ms=now_ms + POLL_MS,
        )

    def _send(self, submit: Submit) -> ReasonCode:
        request = urllib.request.Request(
            f"{self._url}/transactions/{submit.chain}", data=submit.transaction, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=5):
                return ReasonCode.OK
        except (urllib.error.URLError, OSError):
            return ReasonCode.BUSY

    def close(self) -> None:
        return


def main(role: str, config_path: str, options_path: str) -> None:
    logging.basicConfig(level="INFO", stream=sys.stderr, format="%(levelname)s %(message)s")
    options = json.loads(Path(options_path).read_text())
    config = load_config(Path(config_path))
    setup = prepare(config, broker_url=options[role]["broker"])
    hosted = setup.shards[0]
    half = len(hosted.keys) // 2
    keys = hosted.keys[:half] if role == "engine" else hosted.keys[half:]
    others = [key for key in hosted.keys if key not in keys]
    other = "follower" if role == "engine" else "engine"
    setup = replace(
        setup,
        folder=Path(options[role]["folder"]),
        shards=[replace(hosted, keys=keys, devices=hosted.devices if role == "engine" else ())],
        blobs=setup.blobs if role == "engine" else (),
        exchange=ExchangeSetup(
            web=WebConfig(port=options[role]["port"]),
            peers={key.validator: f"http://127.0.0.1:{options[other]['port']}" for key in others},
        ),
    )
    asyncio.run(serve(role, setup, hosted.keys, options))


async def serve(
    role: str,
    setup: ServiceSetup,
    every_key: Sequence[SecretKey],
    options: dict[str, dict[str, str]],
) -> None:
    asyncio.get_running_loop().set_exception_handler(ignore_lost_connections)
    services: list[GatewayService] = []
    done = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        chain = ChainId(request.match_info["chain"])
        submit = Submit(chain=chain, transaction=await request.read(), ticket="from the other")
        services[0]._runners[chain].submit(submit)
        return web.Response(status=202)

    def make_host(
        *, genesis: Genesis, chain: ChainId, keys: object, path: Path, verifier: Verifier
    ) -> object:
        if role == "engine":
            return ChainHost(
                genesis=genesis, chain=chain, keys=every_key, path=path, verifier=verifier
            )
        source = DataFolder(Path(options["engine"]["folder"])).ledger(chain)
        url = f"http://127.0.0.1:{options['engine']['port']}"
        return FollowingHost(genesis, chain, source=source, url=url)

    def on_finalized(chain: ChainId, result: StepResult) -> None:
        if chain == MAIN_CHAIN and result.tip is not None and is_complete(result.tip.state):
            done.set()

    setup = replace(
        setup,
        exchange=replace(setup.exchange, routes=[[web.post("/transactions/{chain}", take)]]),
    )
    service = GatewayService(
        setup,
        verifier=DirectVerifier(),
        on_finalized=on_finalized,
        make_host=make_host,  # type: ignore[arg-type]
    )
    services.append(service)
    logging.info("event=started blobs=%d", len(service.blobs))
    running = asyncio.create_task(service.run())
    waiting = asyncio.create_task(done.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        # The other one may still fetch what it needs to see that all is done.
        await asyncio.wait({running}, timeout=LINGER_S)
        print(json.dumps(service.exchange.count()), flush=True)
        running.cancel()
    waiting.cancel()
    await asyncio.gather(running, return_exceptions=True)
    if not running.cancelled() and (error := running.exception()) is not None:
        raise error


if __name__ == "__main__":
    main(*sys.argv[1:])
