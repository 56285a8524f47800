"""`headwater-sim`: the demo and the firmware simulator."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from headwater_shard.command_line import run_app

if TYPE_CHECKING:
    import typer

PROGRAM = "headwater-sim"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return run_app(PROGRAM, _build_app, argv, extra="headwater[sim]")


def _build_app() -> "typer.Typer":
    import typer
    from rich.console import Console

    app = typer.Typer(
        help="Simulate devices, networks and attackers.",
        add_completion=False,
        rich_markup_mode=None,
    )
    debug_option = typer.Option("--debug", help="Show tracebacks.")

    @app.callback()
    def set_options(context: typer.Context, debug: Annotated[bool, debug_option] = False) -> None:
        context.obj.debug = debug

    @app.command()
    def demo(
        *,
        out: Annotated[Path, typer.Option(help="Folder for ledgers and results.")] = Path(
            "headwater-demo"
        ),
        broker: Annotated[
            str | None, typer.Option(help="mqtt://host:port; embedded if left out.")
        ] = None,
        bits: Annotated[int, typer.Option(help="Bits of a code in an update, 1 to 8.")] = 8,
        devices: Annotated[int, typer.Option(help="Simulated devices.")] = 60,
        shards: Annotated[int, typer.Option(help="Shards.")] = 2,
        rounds: Annotated[int, typer.Option(help="Rounds of each shard.")] = 20,
        attackers: Annotated[int, typer.Option(help="Devices that flip signs.")] = 6,
        byzantine_delegates: Annotated[
            int, typer.Option(help="Delegates of each shard that cheat.")
        ] = 0,
        seed: Annotated[int, typer.Option(help="Draws data, keys and absences.")] = 1,
        as_json: Annotated[bool, typer.Option("--json", help="Print result.json.")] = False,
    ) -> int:
        """Run the main job end to end: devices, two shards, the main chain, the audit."""
        from headwater_firmware_sim.demo.options import DemoOptions
        from headwater_firmware_sim.demo.run import run_demo
        from headwater_firmware_sim.demo.view import TerminalView, print_summary

        options = DemoOptions(
            out=out,
            broker_url=broker,
            bits=bits,
            devices=devices,
            shards=shards,
            rounds=rounds,
            attackers=attackers,
            byzantine_delegates=byzantine_delegates,
            seed=seed,
        )
        console = Console(stderr=as_json)
        with TerminalView(console, options) as view:
            report = run_demo(options, view)
        if as_json:
            print((out / "result.json").read_text(encoding="utf-8"), end="")
        else:
            print_summary(console, options, report)
        return 0 if report.audit == "ok" else 1

    return app
