"""`headwater-sim`: the demo and the firmware simulator."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from headwater_firmware_sim.virtual.collector_pause import rare_collections
from headwater_shard.command_line import run_app

if TYPE_CHECKING:
    import typer

PROGRAM = "headwater-sim"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    with rare_collections():
        return run_app(PROGRAM, _build_app, argv, extra="headwater[sim]")


def _build_app() -> "typer.Typer":
    import typer
    from rich.console import Console

    from headwater_firmware_sim.machines.cli import add_machine_commands
    from headwater_firmware_sim.study.cli import add_study_commands

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

    @app.command()
    def run(
        *,
        scenario: Annotated[Path, typer.Argument(metavar="SCENARIO", help="A TOML file.")],
        seed: Annotated[int | None, typer.Option(min=0, help="In place of the scenario's.")] = None,
        out: Annotated[
            Path | None, typer.Option(help="Folder for ledgers, tables and the report.")
        ] = None,
        audit: Annotated[bool, typer.Option("--audit", help="Replay the ledgers at the end.")] = (
            False
        ),
        live: Annotated[
            bool, typer.Option("--live", help="On a real broker, in real time.")
        ] = False,
        broker: Annotated[
            str | None,
            typer.Option(
                metavar="URL",
                help="With --live: mqtt://host:port, or mosquitto to start one; else embedded.",
            ),
        ] = None,
        ray: Annotated[
            str | None,
            typer.Option(
                metavar="ADDRESS",
                help="Train on Ray: local, auto, HOST:6379, ray://HOST:PORT; the same ledgers.",
            ),
        ] = None,
        workers: Annotated[
            int | None,
            typer.Option(min=1, max=256, help="With --ray local; all cores if left out."),
        ] = None,
        record_training: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Keep every training's result.")
        ] = None,
        replay_training: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE", help="Take results from there; the same ledgers anywhere."
            ),
        ] = None,
        check_training: Annotated[
            bool,
            typer.Option("--check-training", help="With --replay-training, compute and compare."),
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print result.json.")] = False,
    ) -> int:
        """Run a scenario; in virtual time, and the same for the same seed, unless --live."""
        from headwater_firmware_sim.running import run_file
        from headwater_firmware_sim.trainings.choice import TrainingChoice
        from headwater_protocol.errors import ConfigError

        console = Console(stderr=as_json)
        if broker is not None and not live:
            raise ConfigError("--broker", "needs a live run", fix="add --live")
        choice = TrainingChoice(
            ray=ray,
            workers=workers,
            record=record_training,
            replay=replay_training,
            checks=check_training,
        )
        if live and not choice.is_plain:
            raise ConfigError(
                "--live",
                "trains in its own process, in real time",
                fix="leave out --live, or the options of trainings",
            )
        if live and audit:
            raise ConfigError("--audit", "a live run keeps no ledgers", fix="leave one of them out")
        if live:
            from headwater_firmware_sim.live.scenario import run_live_file

            result = run_live_file(
                scenario, seed=seed, out=out, broker_url=broker, console=console, as_json=as_json
            )
        else:
            result = run_file(
                scenario,
                seed=seed,
                out=out,
                audits=audit,
                console=console,
                as_json=as_json,
                choice=choice,
            )
        return 0 if result.final.audit in {"ok", "not run"} else 1

    @app.command()
    def fuzz(
        *,
        seeds: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many.")] = 1_000,
        first: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
        workers: Annotated[
            int | None, typer.Option(min=1, max=256, help="Processes; all cores if left out.")
        ] = None,
        without: Annotated[
            str, typer.Option(help="Kinds of faults to leave out, with commas between.")
        ] = "",
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> int:
        """Search for bugs: random scenarios whose invariants are checked after every block."""
        from headwater_firmware_sim.fuzz.command_line import fuzz_seeds

        return fuzz_seeds(
            range(first, first + seeds),
            workers=workers,
            without=without,
            console=Console(stderr=as_json),
            as_json=as_json,
        )

    add_study_commands(app)
    add_machine_commands(app)
    return app
