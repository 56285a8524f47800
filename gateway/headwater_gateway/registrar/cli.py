"""The registrar's commands: token, device, certificate, invite, broker-config."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from headwater_protocol.errors import ConfigError

if TYPE_CHECKING:
    import typer

    from headwater_gateway.config import EnrolmentConfig, GatewayConfig
    from headwater_gateway.registrar.store import RegistrarStore
    from headwater_gateway.registrar.tokens import DeviceEntry, TokenEntry

DEFAULT_CONFIG: Final = Path("gateway.toml")
DEFAULT_FIRST_PORT: Final = 26_600
MAX_COUNT: Final = 1_000
"""Tokens of one command."""
DURATIONS_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 24 * 3_600_000}


def add_commands(app: "typer.Typer") -> None:
    """Add them to the gateway's command line."""
    import typer

    config_option = typer.Option("--config", metavar="FILE", help="The gateway's configuration.")
    json_option = typer.Option("--json", help="Print JSON.")
    token = typer.Typer(help="Give devices tokens to join with.", rich_markup_mode=None)
    device = typer.Typer(help="See and revoke devices that joined.", rich_markup_mode=None)
    app.add_typer(token, name="token")
    app.add_typer(device, name="device")

    @token.command("create")
    def token_create(
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
        shard: Annotated[
            str | None, typer.Option(help="Where the device is to be; otherwise the emptiest.")
        ] = None,
        weight: Annotated[int, typer.Option(help="How often it is drawn, next to others.")] = 1,
        label: Annotated[str, typer.Option(help="A note for yourself.")] = "",
        valid: Annotated[str, typer.Option(metavar="TIME", help="Such as 30m, 12h or 7d.")] = "7d",
        count: Annotated[int, typer.Option(help="How many, one for each device.")] = 1,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """Print tokens, each for one device; they are shown once and kept as digests alone."""
        return _create(
            config,
            shard=shard,
            weight=weight,
            label=label,
            life_ms=parse_duration(valid),
            count=count,
            as_json=as_json,
        )

    @token.command("list")
    def token_list(
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """List tokens and who spent them."""
        return _list_tokens(config, as_json=as_json)

    @token.command("revoke")
    def token_revoke(
        token: Annotated[str, typer.Argument(metavar="ID", help="As token list shows it.")],
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """Take back a token that nobody has spent."""
        return _revoke_token(config, token, as_json=as_json)

    @device.command("list")
    def device_list(
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """List devices that joined with a token."""
        return _list_devices(config, as_json=as_json)

    @device.command("revoke")
    def device_revoke(
        device: Annotated[str, typer.Argument(metavar="ID", help="64 hexadecimal digits.")],
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """Shut a device out, for good: its certificates, its session, its place on the ledger."""
        return _revoke_device(config, device, as_json=as_json)

    @app.command("certificate")
    def certificate(
        name: Annotated[str, typer.Argument(help="Who it is for, such as gateway-2.")],
        out: Annotated[Path, typer.Option(metavar="DIR", help="Where NAME.pem and NAME.key go.")],
        host: Annotated[
            list[str] | None, typer.Option(help="A name or address of it; several times.")
        ] = None,
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
    ) -> int:
        """Make a key and a certificate for a gateway or a broker, in place of an old one."""
        return _certificate(config, name=name, out=out, hosts=tuple(host or ()))

    @app.command("invite")
    def invite(
        name: Annotated[str, typer.Argument(help="Of the new gateway, such as gateway-4.")],
        host: Annotated[str, typer.Option(help="A name or address by which others reach it.")],
        out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, to be copied there.")],
        first_port: Annotated[
            int, typer.Option(help="Of its service; its nodes listen on the next ones.", min=1)
        ] = DEFAULT_FIRST_PORT,
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
    ) -> int:
        """Write the folder of one more gateway: keys, certificate, configuration."""
        return _invite(config, name=name, host=host, out=out, first_port=first_port)

    @app.command("broker-config")
    def broker_config(
        out: Annotated[Path, typer.Option(metavar="DIR", help="Where it goes.")],
        host: Annotated[
            list[str] | None, typer.Option(help="A name or address of the broker; several times.")
        ] = None,
        port: Annotated[int, typer.Option(help="Of its TLS listener.")] = 8883,
        gateway: Annotated[
            list[str] | None,
            typer.Option(help="Common name of a gateway; several times. Default: this one."),
        ] = None,
        installed: Annotated[
            Path | None,
            typer.Option("--as", metavar="PATH", help="Where DIR will be on the broker's machine."),
        ] = None,
        config: Annotated[Path, config_option] = DEFAULT_CONFIG,
    ) -> int:
        """Write a complete Mosquitto configuration: TLS, certificates, access list, limits."""
        return _broker_config(
            config,
            out=out,
            hosts=tuple(host or ()),
            port=port,
            gateways=tuple(gateway or ()),
            installed=installed,
        )


def parse_duration(text: str) -> int:
    """Milliseconds of `30m`, `12h` or `7d`.

    Raises:
        ConfigError: If it is no such text.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in DURATIONS_MS or not (number.isascii() and number.isdigit()) or len(number) > 6:
        raise ConfigError("--valid", f"is {text[:20]!r}", fix="write 30m, 12h or 7d")
    return int(number) * DURATIONS_MS[unit]


def _load(path: Path) -> "tuple[GatewayConfig, EnrolmentConfig]":
    from headwater_gateway.config import load_config

    config = load_config(path)
    if config.enrolment is None:
        raise ConfigError(
            "enrolment",
            f"{path} has no such table",
            fix="found the network with headwater-gateway init --tls, or add the table",
        )
    return config, config.enrolment


def _open_store(config: "GatewayConfig") -> "RegistrarStore":
    from headwater_gateway.registrar.service import store_path
    from headwater_gateway.registrar.store import RegistrarStore

    return RegistrarStore(store_path(config), network=config.network)


def _create(
    path: Path,
    *,
    shard: str | None,
    weight: int,
    label: str,
    life_ms: int,
    count: int,
    as_json: bool,
) -> int:
    from headwater_gateway.registrar.service import load_authority
    from headwater_gateway.registrar.tokens import SALT_BYTES, TokenEntry, require_token_terms
    from headwater_protocol.identifiers import ChainId
    from headwater_protocol.messages.token import (
        ID_BYTES,
        SECRET_BYTES,
        TokenId,
        TokenSecret,
        format_token,
        token_digest,
    )

    config, enrolment = _load(path)
    require_token_terms(weight=weight, label=label, life_ms=life_ms)
    if not 1 <= count <= MAX_COUNT:
        raise ConfigError("--count", f"is {count}", fix=f"give 1 to {MAX_COUNT}")
    served = [entry.shard for entry in config.shards]
    if shard is not None and shard not in served:
        raise ConfigError("--shard", f"{shard!r} is not served", fix=f"use {', '.join(served)}")
    fingerprint = load_authority(enrolment).fingerprint
    now_ms = _now_ms()
    entries: list[TokenEntry] = []
    texts: list[str] = []
    for _ in range(count):
        secret, salt = TokenSecret(os.urandom(SECRET_BYTES)), os.urandom(SALT_BYTES)
        entry = TokenEntry(
            token=TokenId(os.urandom(ID_BYTES)),
            salt=salt,
            digest=token_digest(salt, secret),
            shard=None if shard is None else ChainId(shard),
            weight=weight,
            label=label,
            created_ms=now_ms,
            expires_ms=now_ms + life_ms,
        )
        entries.append(entry)
        texts.append(
            format_token(
                network=config.network, fingerprint=fingerprint, token=entry.token, secret=secret
            )
        )
    with _open_store(config) as store:
        store.add_tokens(entries, now_ms)
    if as_json:
        rows = [
            {"token": text, **_token_row(entry, now_ms)}
            for text, entry in zip(texts, entries, strict=True)
        ]
        print(json.dumps(rows))
    else:
        print("\n".join(texts))
    return 0


def _list_tokens(path: Path, *, as_json: bool) -> int:
    config, _ = _load(path)
    now_ms = _now_ms()
    with _open_store(config) as store:
        rows = [_token_row(entry, now_ms) for entry in store.tokens()]
    columns = ("id", "state", "shard", "weight", "expires", "device", "label")
    return _print(rows, columns, as_json=as_json)


def _revoke_token(path: Path, text: str, *, as_json: bool) -> int:
    from headwater_gateway.registrar.tokens import Refused
    from headwater_protocol.messages.token import ID_BYTES, TokenId

    config, _ = _load(path)
    token = _parse_hex(text, size=ID_BYTES, key="ID", fix="token list shows the ids")
    with _open_store(config) as store:
        try:
            entry = store.revoke_token(TokenId(token), _now_ms())
        except Refused as error:
            raise ConfigError("ID", str(error), fix="see token list") from None
    row = {"id": entry.token.hex(), "state": "revoked"}
    print(json.dumps(row) if as_json else f"revoked token {entry.token.hex()}")
    return 0


def _list_devices(path: Path, *, as_json: bool) -> int:
    config, _ = _load(path)
    with _open_store(config) as store:
        rows = [_device_row(entry) for entry in store.devices()]
    columns = ("device", "state", "shard", "weight", "certificate until", "token", "label")
    return _print(rows, columns, as_json=as_json)


def _revoke_device(path: Path, text: str, *, as_json: bool) -> int:
    from headwater_gateway.config import parse_device
    from headwater_gateway.registrar.tokens import Refused

    config, _ = _load(path)
    device = parse_device(text, key="ID")
    with _open_store(config) as store:
        try:
            entry = store.revoke_device(device, _now_ms())
        except Refused as error:
            raise ConfigError("ID", str(error), fix="see device list") from None
    if as_json:
        print(json.dumps(_device_row(entry)))
    else:
        print(f"revoked {device.hex()}; a running gateway tells brokers and ledger")
    return 0


def _certificate(path: Path, *, name: str, out: Path, hosts: tuple[str, ...]) -> int:
    from headwater_gateway.registrar.service import load_authority
    from headwater_gateway.registrar.setup import issue_files

    _, enrolment = _load(path)
    _require_name(name)
    certificate, key = issue_files(load_authority(enrolment), out, name=name, hosts=hosts)
    print(f"wrote {certificate} and {key}")
    return 0


def _invite(path: Path, *, name: str, host: str, out: Path, first_port: int) -> int:
    from headwater_gateway.invitation import InvitationPlan, write_invitation

    config, enrolment = _load(path)
    _require_name(name)
    made = write_invitation(
        InvitationPlan(name=name, folder=out, host=host, first_port=first_port), config, enrolment
    )
    print(f"wrote {out}")
    print("next:")
    print(f"  1. put labelled examples of its own into {out}/validation, *.csv or npz")
    print(f"  2. append {made.access} to the access.acl of each broker, and SIGHUP it")
    print(f"  3. copy the folder to its machine; there: headwater-gateway run {out}")
    print("  4. add to [peers] of every other gateway, and start them again one by one:")
    print(f'     "{made.validator.hex()}" = "{made.url}"')
    print("  5. send it units, then headwater-shard tx bond with its delegate.key")
    return 0


def _require_name(name: str) -> None:
    if not name.isascii() or not all(letter.isalnum() or letter in ".-_" for letter in name):
        raise ConfigError("NAME", f"is {name[:80]!r}", fix="use letters, digits, - . and _")


def _broker_config(
    path: Path,
    *,
    out: Path,
    hosts: tuple[str, ...],
    port: int,
    gateways: tuple[str, ...],
    installed: Path | None,
) -> int:
    from headwater_gateway.launch import load_genesis
    from headwater_gateway.registrar.service import load_authority
    from headwater_gateway.registrar.setup import (
        BrokerFolder,
        gateway_name,
        local_hosts,
        write_broker_folder,
    )

    config, enrolment = _load(path)
    if not 1 <= port <= 65_535:
        raise ConfigError("--port", f"is {port}", fix="give 1 to 65535")
    written = write_broker_folder(
        load_genesis(config),
        load_authority(enrolment),
        BrokerFolder(
            folder=out,
            hosts=hosts if installed is not None and hosts else local_hosts(hosts),
            port=port,
            gateways=gateways or (gateway_name(config.tls, enrolment),),
            crl_file=enrolment.crl_file,
            installed=installed,
        ),
    )
    print(f"wrote {written}")
    if installed is None:
        print(f"next: mosquitto -c {written}")
    else:
        print(f"next: copy {out} to {installed} on the broker's machine; set enrolment.reload to a")
        print(f"command that copies {enrolment.crl_file} there and sends Mosquitto a SIGHUP")
    return 0


def _token_row(entry: "TokenEntry", now_ms: int) -> dict[str, Any]:
    return {
        "id": entry.token.hex(),
        "state": entry.state(now_ms).value,
        "shard": entry.shard,
        "weight": entry.weight,
        "label": entry.label,
        "created_ms": entry.created_ms,
        "expires_ms": entry.expires_ms,
        "device": None if entry.device is None else entry.device.hex(),
        "spent_ms": entry.spent_ms,
    }


def _device_row(entry: "DeviceEntry") -> dict[str, Any]:
    return {
        "device": entry.device.hex(),
        "state": "accepted" if entry.revoked_ms is None else "revoked",
        "shard": entry.shard,
        "weight": entry.weight,
        "label": entry.label,
        "token": entry.token.hex(),
        "accepted_ms": entry.accepted_ms,
        "not_after_ms": entry.not_after_ms,
        "revoked_ms": entry.revoked_ms,
        "session_ended_ms": entry.cut_ms,
    }


def _print(rows: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(rows))
        return 0
    from headwater_gateway.registrar.setup import format_day

    times = {"expires": "expires_ms", "certificate until": "not_after_ms"}
    lines = [list(columns)]
    lines += [
        [
            format_day(row[times[column]]) if column in times else str(row[column] or "-")
            for column in columns
        ]
        for row in rows
    ]
    # Ids are longer than a terminal is wide, and a shortened one is of no use.
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _parse_hex(text: str, *, size: int, key: str, fix: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != size:
        raise ConfigError(key, f"is {text[:80]!r}", fix=fix)
    return data


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
