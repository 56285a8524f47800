"""`headwater-sim`: the demo and the firmware simulator."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

EXTRA_HINT = 'headwater-sim needs an extra: pip install "headwater[sim]"'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        import typer
        from rich.console import Console
    except ModuleNotFoundError:
        print(EXTRA_HINT, file=sys.stderr)
        return 2
    from headwater_protocol.errors import HeadwaterError

    app = typer.Typer(
        name="headwater-sim",
        help="Simulate devices, networks and attackers.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def root() -> None:
        """Simulate devices, networks and attackers."""

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
        seed: Annotated[int, typer.Option(help="Draws data, keys and absences.")] = 1,
        as_json: Annotated[bool, typer.Option("--json", help="Print result.json.")] = False,
    ) -> None:
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
            seed=seed,
        )
        console = Console(stderr=as_json)
        with TerminalView(console, options) as view:
            report = run_demo(options, view)
        if as_json:
            print((out / "result.json").read_text(encoding="utf-8"), end="")
        else:
            print_summary(console, options, report)
        if report.audit != "ok":
            raise typer.Exit(1)

    try:
        app(args=None if argv is None else list(argv), standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except HeadwaterError as error:
        print(f"headwater-sim: {error}", file=sys.stderr)
        return 2
    return 0
