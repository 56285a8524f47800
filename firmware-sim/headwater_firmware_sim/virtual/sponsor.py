"""The sponsor of a run: opens the scenario's later tasks on the main chain, one after the other.

It does what a sponsor does with `headwater-shard sign`: uploads program and first model, signs an
`OpenTask`, and sends it again until a block has it. Shards take the task up by its proof, and
devices fetch what it names.
"""

from collections.abc import Callable
from typing import Final

from headwater_firmware_sim.virtual.world import World
from headwater_protocol.chain.market import OpenTask
from headwater_protocol.chain.transaction import Transaction, sign_transaction
from headwater_protocol.identifiers import MAIN_CHAIN, Nonce
from headwater_shard.blobs import Blobs
from headwater_shard.mainchain.market.tasks import get_last_task
from headwater_shard.mainchain.records import MAIN, MAIN_KEY
from headwater_shard.state.state import State
from headwater_shard.transition import NONCES

RETRY_MS: Final = 5_000
"""Until a transaction that no block has is sent again."""


class Sponsor:
    """Watches the main chain."""

    def __init__(self, world: World, *, blobs: Blobs, submit: Callable[[bytes], None]) -> None:
        """Set up.

        Args:
            world: Of the run.
            blobs: The gateways'.
            submit: Hands a signed transaction to a gateway.
        """
        self._world = world
        self._blobs = blobs
        self._submit = submit
        self._state: State | None = None
        self._num_opened = 1
        self._is_planned = False

    @property
    def is_done(self) -> bool:
        """Whether every task of the scenario is open or finished."""
        return self._num_opened > len(self._world.stage.later)

    def on_main(self, state: State) -> None:
        """Take in a block; plan the next task if the last one is finished."""
        self._state = state
        opened = get_last_task(state).number
        if opened > self._num_opened:
            self._num_opened = opened
            self._is_planned = False
            self._world.counts["tasks_opened"] += 1
        if not self.is_done and not self._is_planned and _is_free(state):
            self._is_planned = True
            material = self._world.stage.later[opened - 1]
            self._world.clock.after(material.after_ms, self._open, opened)

    def _open(self, opened: int) -> None:
        state = self._state
        if state is None or self._num_opened != opened:
            return
        plan, material = self._world.stage.plan, self._world.stage.later[opened - 1]
        self._blobs.put_all([material.program.data, material.initial_model])
        last = state.get(NONCES, plan.sponsor.account)
        self._submit(
            sign_transaction(
                plan.sponsor,
                Transaction(
                    network=plan.network,
                    chain=MAIN_CHAIN,
                    sender=plan.sponsor.account,
                    nonce=Nonce(1 if last is None else last.nonce + 1),
                    body=OpenTask(task=material.task),
                ),
            )
        )
        self._world.clock.after(RETRY_MS, self._open, opened)


def _is_free(state: State) -> bool:
    """Whether the main chain would take a new task."""
    main = state.get(MAIN, MAIN_KEY)
    return (
        main is not None
        and not get_last_task(state).open_shards
        and not main.is_merging
        and not main.epoch_started_ms
    )
