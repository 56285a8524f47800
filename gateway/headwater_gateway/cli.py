"""`headwater-gateway`: found a network, run its gateways, see how they are doing.

Exit code 0 says done, 1 that the gateway had to stop, 2 that something is to be corrected by the
user, in one line. Heavy modules are imported by the commands that need them.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from headwater_protocol.errors import ConfigError
from headwater_shard.command_line import run_app

if TYPE_CHECKING:
    import typer

    from headwater_gateway.founding import DrawSeed, FoundingPlan
    from headwater_gateway.status import GatewayStatus
    from headwater_models.program import Program

PROGRAM: Final = "headwater-gateway"
EXTRA: Final = "headwater[gateway]"
MODULES: Final = ("typer", "rich", "nacl", "aiohttp", "aiomqtt", "amqtt", "cryptography")
"""What the extra brings, beside the runtimes."""
RUNTIMES: Final = ("tflite_runtime", "ai_edge_litert")
DEFAULT_CONFIG: Final = Path("gateway.toml")
DEFAULT_PROGRAM: Final = "mlp-64-32-10"
MAX_SAMPLE_BYTES: Final = 256 * 1024 * 1024
"""Of the examples that a normalisation is measured on."""
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: Without the program's name; None takes the process's own.
    """
    return run_app(PROGRAM, _build_app, argv, extra=EXTRA)


def _require_extra() -> None:
    """Say which extra to install before anything is opened.

    Raises:
        ConfigError: If a package of the extra is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in MODULES if find_spec(name) is None]
    if not any(find_spec(name) is not None for name in RUNTIMES):
        missing.append("a TFLite runtime")
    if missing:
        raise ConfigError(missing[0], "is not installed", fix=f'pip install "{EXTRA}"')


def _build_app() -> "typer.Typer":
    import typer

    _require_extra()
    app = typer.Typer(
        help="Found a network, run its gateways, see how they are doing.",
        add_completion=False,
        rich_markup_mode=None,
    )
    debug_option = typer.Option("--debug", help="Show tracebacks.")
    config_option = typer.Option("--config", metavar="FILE", help="The gateway's configuration.")
    place_argument = typer.Argument(
        metavar="[DIR]", help="A gateway's folder, in place of --config.", show_default=False
    )

    @app.callback()
    def set_options(context: typer.Context, debug: Annotated[bool, debug_option] = False) -> None:
        context.obj.debug = debug

    @app.command("init")
    def init(
        context: typer.Context,
        out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the network.")],
        name: Annotated[str, typer.Option(help="Of the network.")] = "headwater",
        shards: Annotated[int, typer.Option(help="How many shards.")] = 1,
        delegates: Annotated[
            int | None,
            typer.Option(help="Delegates of each shard, all in one gateway.  [default: 4]"),
        ] = None,
        validators: Annotated[
            int | None,
            typer.Option(
                help="Validators of each shard, each with a gateway of its own: writes one folder "
                "a gateway, with CometBFT, TLS and two Mosquitto brokers."
            ),
        ] = None,
        task: Annotated[
            str, typer.Option(metavar="FILE|defaults", help="A task.toml; see the task command.")
        ] = "defaults",
        program: Annotated[
            str,
            typer.Option(metavar="NAME|FILE", help="A program that is shipped, or a .tflite file."),
        ] = DEFAULT_PROGRAM,
        rounds: Annotated[
            int | None, typer.Option(help="Rounds of each shard, in place of the task's.")
        ] = None,
        validation: Annotated[
            Path | None,
            typer.Option(metavar="PATH", help="The delegates' labelled examples: *.csv or .npz."),
        ] = None,
        port: Annotated[int, typer.Option(help="Of the embedded broker.")] = 1883,
        seed_file: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="64 hex digits to derive all keys from."),
        ] = None,
        tls: Annotated[
            bool,
            typer.Option("--tls", help="Make an authority and certificates; devices use tokens."),
        ] = False,
        host: Annotated[
            list[str] | None,
            typer.Option(
                help="With --tls, a name devices reach this machine by; several times. With "
                "--validators, where the gateways are: one for all, or one for each."
            ),
        ] = None,
        broker_host: Annotated[
            list[str] | None,
            typer.Option(help="With --validators, where the brokers are; one or several."),
        ] = None,
        first_port: Annotated[
            int | None,
            typer.Option(
                help="With --validators, count all ports from here: registrar, brokers, gateways. "
                "Otherwise 8443, 8883 and 26600.",
                min=1,
                max=65_000,
            ),
        ] = None,
        debug: Annotated[bool, debug_option] = False,
    ) -> int:
        """Found a network: keys, genesis, model and gateway.toml, of one gateway or of many."""
        context.obj.debug = context.obj.debug or debug
        given = _Given(
            out=out,
            name=name,
            num_shards=shards,
            task=task,
            program=program,
            rounds=rounds,
            validation=validation,
            port=port,
            seed_file=seed_file,
        )
        hosts = tuple(host or ())
        if validators is None:
            if broker_host or first_port is not None:
                raise ConfigError(
                    "--broker-host" if broker_host else "--first-port",
                    "is for gateways on machines of their own",
                    fix="add --validators",
                )
            return _init(
                given,
                num_delegates=4 if delegates is None else delegates,
                tls_hosts=hosts if tls or hosts else None,
            )
        if delegates is not None:
            raise ConfigError("--delegates", "is there beside --validators", fix="keep one of them")
        return _init_machines(
            given,
            num_validators=validators,
            hosts=hosts,
            broker_hosts=tuple(broker_host or ()),
            first_port=first_port,
        )

    @app.command("task")
    def task(
        out: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write it there, if there is none.")
        ] = None,
        normalise: Annotated[
            Path | None,
            typer.Option(
                metavar="DATA", help="Examples like the devices', to take mean and spread from."
            ),
        ] = None,
    ) -> int:
        """Print a commented task.toml with the defaults, to be edited and given to init."""
        return _task(out, normalise)

    @app.command("run")
    def run(
        context: typer.Context,
        place: Annotated[Path | None, place_argument] = None,
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
        log_level: Annotated[str, typer.Option(metavar="|".join(LOG_LEVELS))] = "info",
        until_complete: Annotated[
            bool, typer.Option("--until-complete", help="Stop once all rounds are merged.")
        ] = False,
        debug: Annotated[bool, debug_option] = False,
    ) -> int:
        """Serve until stopped by SIGTERM or SIGINT."""
        context.obj.debug = context.obj.debug or debug
        return _run(place or config, log_level=log_level, until_complete=until_complete)

    @app.command("status")
    def status(
        context: typer.Context,
        place: Annotated[Path | None, place_argument] = None,
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
        debug: Annotated[bool, debug_option] = False,
    ) -> int:
        """Read heights, rounds and checkpoints from the stores; the gateway may be running."""
        context.obj.debug = context.obj.debug or debug
        return _status(place or config, as_json=as_json)

    from headwater_gateway.registrar.cli import add_commands

    add_commands(app)
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The options of `init` that stand for one gateway and for many."""

    out: Path
    name: str
    num_shards: int
    task: str
    program: str
    rounds: int | None
    validation: Path | None
    port: int
    seed_file: Path | None

    def plan(self, num_validators: int, *, key: str) -> "FoundingPlan":
        """What is to be founded."""
        import time
        from dataclasses import replace

        from headwater_gateway.founding import FoundingPlan
        from headwater_gateway.task_file import default_task_file, load_task_file
        from headwater_protocol.identifiers import TimeMs

        task = default_task_file() if self.task == "defaults" else load_task_file(Path(self.task))
        if self.rounds is not None:
            task = replace(task, rounds=self.rounds)
        return FoundingPlan(
            folder=self.out,
            name=self.name,
            num_shards=self.num_shards,
            num_validators=num_validators,
            validators_key=key,
            task=task,
            program=_load_program(self.program),
            validation="validation" if self.validation is None else str(self.validation.absolute()),
            port=self.port,
            time_ms=TimeMs(time.time_ns() // 1_000_000),
        )

    def draw_seed(self) -> "DrawSeed":
        """Where keys come from."""
        import os

        from headwater_gateway.founding import derive_seed
        from headwater_gateway.keyfile import load_key

        if self.seed_file is None:
            return lambda role: os.urandom(32)
        secret = load_key(self.seed_file, key="--seed-file").seed
        return lambda role: derive_seed(secret, role)


def _init(given: _Given, *, num_delegates: int, tls_hosts: tuple[str, ...] | None) -> int:
    from dataclasses import replace

    from headwater_gateway.founding import found_network
    from headwater_gateway.registrar import setup

    draw_seed, out = given.draw_seed(), given.out
    hosts = () if tls_hosts is None else setup.local_hosts(tls_hosts)
    broker_port = setup.DEFAULT_BROKER_PORT
    plan = given.plan(num_delegates, key="--delegates")
    if tls_hosts is not None:
        plan = replace(
            plan,
            tls=setup.plan_tls(
                out, hosts, broker_port=broker_port, port=setup.DEFAULT_REGISTRAR_PORT
            ),
        )
    founding = found_network(plan, draw_seed)
    print(f"network {founding.network.hex()}")
    has_data = given.validation is not None
    if tls_hosts is not None:
        setup.write_tls(out, founding.genesis, hosts, broker_port=broker_port)
        return _print_tls_steps(out, founding.config, hosts[0], has_data=has_data)
    steps = [f"add the ids of your devices to {out}/devices-*.txt (headwater-agent id prints one)"]
    if not has_data:
        steps.insert(0, f"put labelled examples of your own into {out}/validation, *.csv or npz")
    steps.append(f"headwater-gateway run --config {founding.config}")
    steps.append(
        f"on each device: headwater-agent init --genesis {out}/genesis.cbor --network "
        f"{founding.network.hex()} --shard {founding.genesis.shards[0]} "
        f"--broker mqtt://127.0.0.1:{given.port}"
    )
    return _print_steps(steps)


def _init_machines(
    given: _Given,
    *,
    num_validators: int,
    hosts: tuple[str, ...],
    broker_hosts: tuple[str, ...],
    first_port: int | None,
) -> int:
    from headwater_gateway.gateway_folders import MachinesPlan, Ports, found_machines
    from headwater_models.dataset import load_dataset
    from headwater_protocol.chain.genesis import genesis_network

    examples = None
    if given.validation is not None:
        examples = load_dataset(given.validation, max_bytes=MAX_SAMPLE_BYTES, key="--validation")
    made = found_machines(
        MachinesPlan(
            network=given.plan(num_validators, key="--validators"),
            hosts=hosts or ("127.0.0.1",),
            broker_hosts=broker_hosts,
            examples=examples,
            ports=Ports() if first_port is None else Ports.counted_from(first_port),
        ),
        given.draw_seed(),
    )
    folders = [config.parent for config in made.configs]
    print(f"network {genesis_network(made.foundation.genesis).hex()}")
    print(f"wrote {len(folders)} gateways, {folders[0]} to {folders[-1]}")
    where = "" if len(set(hosts)) < 2 else "copy each folder to its machine; there: "
    steps = [
        f"{where}{_own_step(config.parent)}mosquitto -c {config}" for config in made.broker_configs
    ]
    steps.append(f"{where}headwater-gateway run {folders[0]}, and so on for each of them")
    steps.append(f"for each device: headwater-gateway token create --config {made.configs[0]}")
    steps.append(f"on each device: headwater-agent enroll {made.registrar_url} --token TOKEN")
    if examples is None:
        steps.insert(0, f"put labelled examples of your own into {given.out}/gateway-*/validation")
    return _print_steps(steps)


def _print_tls_steps(out: Path, config: Path, host: str, *, has_data: bool) -> int:
    from headwater_gateway.registrar import setup

    steps = [
        f"{_own_step(out / 'mosquitto', out / 'tls' / 'revoked.crl')}"
        f"mosquitto -c {out}/mosquitto/mosquitto.conf",
        f"headwater-gateway run --config {config}",
        f"for each device: headwater-gateway token create --config {config}",
        f"on each device: headwater-agent enroll https://{host}:{setup.DEFAULT_REGISTRAR_PORT} "
        "--token TOKEN",
    ]
    if not has_data:
        steps.insert(0, f"put labelled examples of your own into {out}/validation, *.csv or npz")
    return _print_steps(steps)


def _own_step(*paths: Path) -> str:
    """What root has to do first: Mosquitto gives root's rights up for its own user's."""
    if os.geteuid() != 0:
        return ""
    return f"chown -R mosquitto {' '.join(str(path) for path in paths)} && "


def _print_steps(steps: Sequence[str]) -> int:
    print("next:")
    for number, step in enumerate(steps, start=1):
        print(f"  {number}. {step}")
    return 0


def _load_program(name: str) -> "Program":
    from headwater_models.program import Program, list_programs
    from headwater_protocol.errors import InvalidMessage
    from headwater_protocol.messages.chunk import MAX_BLOB_BYTES

    if name in list_programs():
        return Program.load(name)
    path = Path(name)
    try:
        with path.open("rb") as file:
            return Program(file.read(MAX_BLOB_BYTES + 1))
    except OSError as error:
        raise ConfigError(
            "--program",
            f"{name}: {error.strerror}",
            fix=f"give a .tflite file, or one of {', '.join(list_programs())}",
        ) from error
    except InvalidMessage as error:
        raise ConfigError(
            "--program", f"{name}: {error}", fix=f"see headwater-model check {name}"
        ) from error


def _task(out: Path | None, examples: Path | None) -> int:
    from headwater_gateway.task_file import TEMPLATE, format_normalised
    from headwater_models.dataset import load_dataset
    from headwater_models.normalisation import measure_normalisation

    text = TEMPLATE
    if examples is not None:
        dataset = load_dataset(examples, max_bytes=MAX_SAMPLE_BYTES, key="--normalise")
        text = format_normalised(measure_normalisation(dataset.features))
    if out is None:
        print(text, end="")
        return 0
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError("--out", f"{out}: {error.strerror}", fix="name another file") from error
    print(f"{out}: edit it, then headwater-gateway init --task {out} --out DIR")
    return 0


def _run(config: Path, *, log_level: str, until_complete: bool) -> int:
    import os

    if log_level not in LOG_LEVELS:
        raise ConfigError(
            "--log-level", f"is {log_level!r}", fix=f"use one of {', '.join(LOG_LEVELS)}"
        )
    # Before numpy is loaded: the models are too small to gain from a thread a core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from headwater_gateway.config import load_config
    from headwater_gateway.launch import run_gateway

    loaded = load_config(config)
    _start_log(log_level)
    run_gateway(loaded, until_complete=until_complete)
    return 0


def _status(config: Path, *, as_json: bool) -> int:
    from headwater_gateway.config import load_config
    from headwater_gateway.status import read_status

    status = read_status(load_config(config))
    if as_json:
        print(json.dumps(status.to_json()))
    else:
        _print_status(status)
    return 0


def _print_status(status: "GatewayStatus") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"network {status.network}")
    state = "complete" if status.is_complete else "under way"
    console.print(f"main chain: block {status.main_height}, {status.epoch} merges, {state}")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("shard", no_wrap=True)
    for name in ("block", "devices", "round", "accepted", "settled", "merges"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    for shard in status.shards:
        table.add_row(
            shard.shard,
            f"{shard.height:,}",
            f"{shard.devices:,}",
            f"{shard.round:,}",
            f"{shard.accepted:,} of {shard.updates:,}",
            f"{shard.settled:,} of {shard.checkpoints:,}",
            f"{shard.epoch:,}",
            "finished" if shard.is_finished else shard.phase,
        )
    console.print(table)
    for shard in status.shards:
        console.print(f"{shard.shard} model {shard.model}")


def _start_log(level: str) -> None:
    import logging
    import time

    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
