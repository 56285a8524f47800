"""The sub-commands of `headwater-shard` beside the audit: keys, init, show, tx, prove, verify."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from headwater_protocol.chain.genesis import decode_genesis, genesis_network
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import ConfigError, InvalidMessage
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.layout import DataFolder
from headwater_shard.tools.handing_in import hand_in, pick_nonce
from headwater_shard.tools.listing import LISTINGS, Row, list_rows
from headwater_shard.tools.proving import EntryProof, prove_entry, verify_entry
from headwater_shard.tools.reading import read_chain, read_genesis
from headwater_shard.tools.setup import NetworkPlan, init_network, load_key, make_key
from headwater_shard.tools.signing import KINDS, build_body, sign_body
from headwater_shard.transition import NONCES

if TYPE_CHECKING:
    import typer

MAX_FILE_BYTES = 64 * 1024 * 1024
PIPE_WIDTH = 240
"""Of a table that is not read on a terminal."""
SHORT_HEX = 16
"""Digits of a key or digest in a table; --json has all."""


def add_commands(app: "typer.Typer") -> None:
    """Add the sub-commands to the application."""
    import typer

    folder_argument = typer.Argument(metavar="DIR", help="The data folder of a gateway.")
    json_option = typer.Option("--json", help="Print JSON.")

    @app.command("keys")
    def keys(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the key.")],
        show_only: Annotated[
            bool, typer.Option("--show", help="Print the account of a key that is there.")
        ] = False,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """Make a key, and print the account that it is."""
        key = load_key(file) if show_only else make_key(file)
        account = key.account.hex()
        print(json.dumps({"account": account, "file": str(file)}) if as_json else account)
        return 0

    @app.command("init")
    def init(
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
        program: Annotated[Path, typer.Option(help="The training program, a .tflite file.")],
        tensor_sizes: Annotated[
            str, typer.Option(help="Parameters of each tensor, such as 2048,32,320,10.")
        ],
        name: Annotated[str, typer.Option(help="Of the network and its first task.")] = "headwater",
        delegates: Annotated[int, typer.Option(help="Delegates of each shard.")] = 4,
        shards: Annotated[int, typer.Option(help="Shards.")] = 2,
        stake: Annotated[int, typer.Option(help="Units that each delegate bonds.")] = 1_000_000,
        rounds: Annotated[int, typer.Option(help="Rounds of each shard.")] = 100,
        round_budget: Annotated[int, typer.Option(help="Units a round pays.")] = 10_000,
        cohort_size: Annotated[int, typer.Option(help="Devices drawn a round.")] = 100,
        seed: Annotated[int, typer.Option(help="Draws the initial model.")] = 1,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """Write a genesis for N delegates on each of S shards, with their keys."""
        plan = NetworkPlan(
            name=name,
            shards=shards,
            delegates=delegates,
            stake=stake,
            rounds=rounds,
            round_budget=round_budget,
            cohort_size=cohort_size,
            tensor_sizes=_parse_sizes(tensor_sizes),
        )
        data_folder = DataFolder(folder)
        genesis = init_network(
            data_folder,
            plan,
            program=_read(program, "--program"),
            now_ms=time.time_ns() // 1_000_000,
            seed=seed,
        )
        network = genesis_network(genesis).hex()
        if as_json:
            print(json.dumps({"network": network, "genesis": str(data_folder.genesis)}))
        else:
            print(f"{data_folder.genesis}\nnetwork {network}\nkeys in {folder / 'keys'}")
        return 0

    @app.command("show")
    def show(
        what: Annotated[str, typer.Argument(metavar="WHAT", help=", ".join(LISTINGS))],
        folder: Annotated[Path, folder_argument],
        shard: Annotated[str | None, typer.Option(help="Of this shard alone.")] = None,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """List what the ledgers hold."""
        if what not in LISTINGS:
            raise ConfigError("WHAT", f"no {what!r}", fix=f"one of {', '.join(LISTINGS)}")
        data_folder = DataFolder(folder)
        genesis = read_genesis(data_folder)
        only = None if shard is None else ChainId(shard)
        rows = list_rows(what, data_folder, genesis, only)
        if as_json:
            print(json.dumps([dict(row) for row in rows]))
        else:
            _print_rows(rows)
        return 0

    @app.command("tx")
    def tx(
        kind: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(KINDS))],
        folder: Annotated[Path, folder_argument],
        key: Annotated[Path, typer.Option(help="The sender's key file.")],
        nonce: Annotated[
            int | None,
            typer.Option(help="Greater than the last; the next one if left out."),
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Write the bytes here.")] = None,
        to: Annotated[str | None, typer.Option(help="Recipient, hex.")] = None,
        amount: Annotated[str | None, typer.Option(help="Units.")] = None,
        validator: Annotated[str | None, typer.Option(help="Candidate, hex.")] = None,
        source: Annotated[str | None, typer.Option(help="Candidate to leave, hex.")] = None,
        commission: Annotated[str | None, typer.Option(help="Thousandths.")] = None,
        device: Annotated[str | None, typer.Option(help="Device, hex.")] = None,
        shard: Annotated[str | None, typer.Option(help="Shard.")] = None,
        model: Annotated[str | None, typer.Option(help="Model digest, hex.")] = None,
        price: Annotated[str | None, typer.Option(help="Units.")] = None,
        account: Annotated[str | None, typer.Option(help="Account, hex.")] = None,
        blob: Annotated[str | None, typer.Option(help="Blob digest, hex.")] = None,
        blob_class: Annotated[
            str | None, typer.Option("--class", help="models, payloads or programs.")
        ] = None,
        task: Annotated[
            str | None, typer.Option(help="Of close-task its name, of open-task its record in hex.")
        ] = None,
        submit: Annotated[
            bool, typer.Option("--submit", help="Hand it to the gateway that has DIR.")
        ] = False,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """Build and sign a transaction of the main chain; prints its hexadecimal digits."""
        given = {
            "to": to,
            "amount": amount,
            "validator": validator,
            "source": source,
            "commission": commission,
            "device": device,
            "shard": shard,
            "model": model,
            "price": price,
            "account": account,
            "blob": blob,
            "class": blob_class,
            "task": task,
        }
        body = build_body(kind, {name: text for name, text in given.items() if text is not None})
        data_folder = DataFolder(folder)
        genesis = read_genesis(data_folder)
        secret = load_key(key)
        if nonce is None:
            last = read_chain(data_folder, genesis, MAIN_CHAIN).state.get(NONCES, secret.account)
            nonce = pick_nonce(data_folder, secret.account, 0 if last is None else last.nonce)
        data = sign_body(secret, body, network=genesis_network(genesis), nonce=nonce)
        if submit:
            out = hand_in(data_folder, data, kind=kind, sender=secret.account, nonce=nonce)
        elif out is not None:
            _write(out, data)
        if as_json:
            print(
                json.dumps(
                    {
                        "kind": kind,
                        "chain": MAIN_CHAIN,
                        "sender": secret.account.hex(),
                        "nonce": nonce,
                        "transaction": data.hex(),
                    }
                )
            )
        else:
            print(data.hex() if out is None else str(out))
        return 0

    @app.command("prove")
    def prove(
        folder: Annotated[Path, folder_argument],
        chain: Annotated[str, typer.Argument(metavar="CHAIN", help="main or a shard.")],
        namespace: Annotated[str, typer.Argument(metavar="NAMESPACE")],
        key: Annotated[str, typer.Argument(metavar="KEY", help="Hex, or text:... for text.")],
        out: Annotated[Path | None, typer.Option(help="Write the proof here.")] = None,
    ) -> int:
        """Prove an entry of a ledger, or that there is none, to anybody with the genesis."""
        data_folder = DataFolder(folder)
        genesis = read_genesis(data_folder)
        stored = read_chain(data_folder, genesis, ChainId(chain))
        proof = encode_record(prove_entry(data_folder, genesis, stored, namespace, _parse_key(key)))
        if out is None:
            print(proof.hex())
        else:
            _write(out, proof)
            print(out)
        return 0

    @app.command("verify")
    def verify(
        file: Annotated[Path, typer.Argument(metavar="PROOF", help="A file of prove.")],
        genesis_file: Annotated[Path, typer.Option("--genesis", help="The genesis.cbor.")],
        network: Annotated[str | None, typer.Option(help="The network that you pin, hex.")] = None,
        as_json: Annotated[bool, json_option] = False,
    ) -> int:
        """Check a proof with nothing but the genesis."""
        genesis = decode_genesis(_read(genesis_file, "--genesis"))
        pinned = genesis_network(genesis).hex()
        if network is not None and network != pinned:
            raise ConfigError("--genesis", f"is of network {pinned}", fix="get the one you pinned")
        try:
            proof = decode_record(EntryProof, _read(file, "PROOF"), max_bytes=MAX_FILE_BYTES)
            entry = verify_entry(
                proof, genesis, now_ms=time.time_ns() // 1_000_000, verifier=DirectVerifier()
            )
        except InvalidMessage as error:
            print(json.dumps({"ok": False, "problem": str(error)}) if as_json else f"no: {error}")
            return 1
        header = proof.header
        if as_json:
            print(
                json.dumps(
                    {
                        "ok": True,
                        "chain": header.chain,
                        "height": header.height,
                        "namespace": proof.namespace,
                        "key": proof.key.hex(),
                        "entry": entry,
                    }
                )
            )
        else:
            what = "nothing" if entry is None else entry
            print(f"{header.chain} block {header.height} holds at {proof.namespace}: {what}")
        return 0


def _parse_sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError("--tensor-sizes", str(error), fix="give 2048,32,320,10") from error


def _parse_key(text: str) -> bytes:
    if text.startswith("text:"):
        return text.removeprefix("text:").encode()
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ConfigError("KEY", str(error), fix="hex digits, or text:shard") from error


def _read(path: Path, name: str) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(name, f"{path} exceeds {MAX_FILE_BYTES} bytes", fix="is it the file?")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(name, f"{path}: {error.strerror}", fix="give a file") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error.strerror}", fix="choose another") from error


def _print_rows(rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print("none", file=sys.stderr)
        return
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*_cells(row))
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(highlight=False, soft_wrap=True, width=width).print(table)


def _cells(row: Mapping[str, str | int | bool | None]) -> list[str]:
    cells = []
    for value in row.values():
        text = "-" if value is None else str(value)
        cells.append(f"{text[:SHORT_HEX]}…" if len(text) == 64 else text)
    return cells
