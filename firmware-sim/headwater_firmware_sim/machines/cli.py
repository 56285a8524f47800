"""`headwater-sim cluster` and `chaos`: a whole network of processes on this machine."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    import typer


def add_machine_commands(app: "typer.Typer") -> None:
    """Add them to the simulator's command line."""
    import typer
    from rich.console import Console

    from headwater_firmware_sim.machines.plan import NetworkKind, NetworkPlan

    network_option = typer.Option(
        "--network", help="Hosts: network namespaces (root, iproute2, nftables) or the loopback."
    )

    @app.command()
    def cluster(
        *,
        out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("cluster"),
        validators: Annotated[int, typer.Option(help="Gateways of each shard.")] = 4,
        shards: Annotated[int, typer.Option(help="Shards.")] = 1,
        devices: Annotated[int, typer.Option(help="Agent processes.")] = 20,
        rounds: Annotated[int, typer.Option(help="Rounds of each shard.")] = 5,
        network: Annotated[NetworkKind, network_option] = NetworkKind.AUTO,
        as_json: Annotated[bool, typer.Option("--json", help="Print result.json.")] = False,
    ) -> int:
        """Run gateways with CometBFT, Mosquitto with TLS and agents as processes of their own."""
        from headwater_firmware_sim.machines.result import print_result
        from headwater_firmware_sim.machines.run import RESULT_NAME, run_cluster

        console = Console(stderr=as_json)
        plan = NetworkPlan(
            out=out,
            num_validators=validators,
            num_shards=shards,
            num_devices=devices,
            num_rounds=rounds,
            kind=network,
        )
        with ending_cleanly():
            result = run_cluster(plan, say=lambda line: console.print(line, highlight=False))
        if as_json:
            print((out / RESULT_NAME).read_text(encoding="utf-8"), end="")
        else:
            print_result(console, result)
        return 0 if result.is_good else 1

    @app.command()
    def chaos(
        *,
        out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("chaos"),
        devices: Annotated[int, typer.Option(help="Agent processes.")] = 8,
        only: Annotated[
            list[str] | None, typer.Option(help="A fault's name; several times. Default: all.")
        ] = None,
        network: Annotated[NetworkKind, network_option] = NetworkKind.AUTO,
        as_json: Annotated[bool, typer.Option("--json", help="Print chaos.json.")] = False,
    ) -> int:
        """Kill, freeze, cut off, fill, wipe and betray a network of processes, one by one."""
        from headwater_firmware_sim.machines.chaos import run_chaos
        from headwater_firmware_sim.machines.chaos_table import ChaosTable, write_rows
        from headwater_firmware_sim.machines.faults import choose_faults
        from headwater_firmware_sim.machines.network import ProcessNetwork
        from headwater_firmware_sim.machines.plan import chaos_plan

        console = Console(stderr=as_json)
        faults = choose_faults(only)

        def say(line: str) -> None:
            console.print(line, highlight=False)

        plan = chaos_plan(out, devices=devices, kind=network)
        with ending_cleanly(), ProcessNetwork(plan, say=say) as running:
            rows = run_chaos(running, faults, say=say, tell=ChaosTable(console).tell)
        write_rows(rows, out / "chaos.json")
        if as_json:
            print((out / "chaos.json").read_text(encoding="utf-8"), end="")
        return 0 if all(row.is_good for row in rows) else 1


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does: dozens of processes depend on it."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
