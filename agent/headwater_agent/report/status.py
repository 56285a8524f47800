"""What a device does and did, from its state on disk; a running agent is not disturbed."""

from collections.abc import Mapping
from datetime import UTC, datetime

from headwater_agent.config import AgentConfig
from headwater_agent.data.config import DataConfig, FileSource, PythonSource, QuerySource
from headwater_agent.report.receipts import describe_proof
from headwater_agent.storage.reading import Stored, is_in_use, read_stored
from headwater_protocol.crypto.hashing import blob_digest

Rows = list[tuple[str, ...]]


def make_status(config: AgentConfig, *, now_ms: int) -> dict[str, object]:
    """The status as JSON.

    Raises:
        ConfigError: If there is no state, or it may not be read.
        DamagedState: If it cannot be read.
    """
    stored = read_stored(config.state)
    is_running = is_in_use(config.state)
    report = stored.report
    connection = dict(_mapping(report.get("connection")))
    if not is_running:
        connection["is_connected"] = False
    state = stored.state
    receipts = state.receipts
    return {
        "device": stored.device.hex(),
        "network": None if stored.network is None else stored.network.hex(),
        "shard": config.shard,
        "is_running": is_running,
        "activity": report.get("activity") if is_running else "stopped",
        "report_age_ms": _age_ms(report, now_ms),
        "pid": report.get("pid") if is_running else None,
        "round": max(_integer(report.get("round")), state.last_signed_round),
        "last_signed_round": state.last_signed_round,
        "model": report.get("model"),
        "program": None if state.program is None else blob_digest(state.program).hex(),
        "block_time_ms": report.get("block_time_ms"),
        "epoch": None if state.trust is None else state.trust.trusted.epoch.epoch,
        "num_examples": report.get("num_examples"),
        "data": {
            "source": _describe_source(config.data),
            "num_seen": report.get("num_seen"),
            "bad": report.get("bad_data"),
        },
        "guest": report.get("guest"),
        "connection": connection,
        "outbox": _describe_outbox(stored, config),
        "last_receipt": describe_proof(receipts[-1]) if receipts else None,
        "totals": stored.totals,
        "answers": {reason.value: count for reason, count in sorted(state.answers.items())},
        "rejections": {reason.value: count for reason, count in sorted(state.rejections.items())},
        "errors": report.get("errors", []),
    }


def format_status(status: Mapping[str, object], *, now_ms: int) -> Rows:
    """The status as two columns."""
    connection, outbox = _mapping(status["connection"]), _mapping(status["outbox"])
    totals, receipt = _mapping(status["totals"]), _mapping(status["last_receipt"])
    rows: Rows = [
        ("device", str(status["device"])),
        ("doing", f"{status['activity']}{_since(status, now_ms)}"),
        ("broker", _format_connection(connection)),
        ("round", f"{status['round']}, last signed {status['last_signed_round']}"),
        ("model", str(status["model"] or "none heard of yet")),
        ("data", _format_data(status)),
        ("guest", _format_guest(_mapping(status["guest"]))),
        ("outbox", _format_outbox(outbox, now_ms=now_ms)),
        (
            "budget",
            f"{totals['rounds_signed']} rounds, {totals['examples_signed']} examples, "
            f"{totals['bytes_signed']} bytes signed; {totals['updates_dropped']} updates dropped",
        ),
        (
            "rewards",
            f"{totals['reward_units']} units in {totals['rounds_accepted']} accepted rounds, "
            f"{totals['rounds_refused']} refused, by signed receipts",
        ),
    ]
    if receipt:
        told = f"round {receipt['round']} {receipt['stage']}: {receipt['reason']}"
        rows.append(("receipt", f"{told}, reward {receipt['reward']}"))
    bad = _mapping(_mapping(status["data"]).get("bad"))
    latest = bad.get("latest")
    rows += [("bad data", str(text)) for text in (latest if isinstance(latest, list) else [])]
    errors = status["errors"]
    for error in errors if isinstance(errors, list) else []:
        entry = _mapping(error)
        when = _format_time(_integer(entry.get("time_ms")))
        rows.append(("error", f"{when} ({entry.get('count')}x) {entry.get('text')}"))
    return rows


def _describe_source(data: DataConfig) -> str:
    match data.source:
        case FileSource() as source:
            return f"{source.kind or 'files'} {source.path}"
        case QuerySource() as source:
            return f"sqlite {source.database}"
        case PythonSource() as source:
            return f"python {source.module}:{source.function}"
        case source:
            topics = ", ".join(dict.fromkeys(reading.topic for reading in source.readings))
            return f"mqtt {source.broker.host}:{source.broker.port} {topics}"


def _format_data(status: Mapping[str, object]) -> str:
    data = _mapping(status["data"])
    examples = status["num_examples"]
    kept = "no examples counted yet" if examples is None else f"{examples} examples kept"
    seen = data.get("num_seen")
    of = f" of {seen} seen" if isinstance(seen, int) and seen != examples else ""
    count = _integer(_mapping(data.get("bad")).get("count"))
    bad = f", {count} rows or messages left out" if count else ""
    return f"{data['source']}: {kept}{of}{bad}"


def _format_guest(guest: Mapping[str, object]) -> str:
    refusals = ", ".join(
        f"{reason} {count}x" for reason, count in _mapping(guest.get("refusals")).items()
    )
    told = f"; refused so far: {refusals}" if refusals else ""
    if guest.get("may_train") is None:
        return f"not asked yet{told}"
    if guest["may_train"]:
        return f"may train{told}"
    return f"may not train: {guest.get('detail') or guest.get('reason')}{told}"


def _describe_outbox(stored: Stored, config: AgentConfig) -> dict[str, object]:
    """The one update that may be under way; the rule for more is in docs/agent.md."""
    entry = stored.state.outbox
    return {
        "updates": 0 if entry is None else 1,
        "bytes": 0 if entry is None else len(entry.update),
        "max_bytes": config.limits.max_outbox_bytes,
        "max_days": config.limits.max_outbox_days,
        "round": None if entry is None else entry.round,
        "is_held": None if entry is None else entry.is_held,
        "until_ms": None
        if entry is None
        else (entry.verdict_until_ms if entry.is_held else entry.deadline_ms),
        "dropped": stored.totals["updates_dropped"],
    }


def _format_connection(connection: Mapping[str, object]) -> str:
    broker = connection.get("broker") or "none tried yet"
    if connection.get("is_connected"):
        return f"{broker}, connected since {_format_time(_integer(connection.get('since_ms')))}"
    problem = connection.get("problem")
    return f"{broker}, not connected" + (f": {problem}" if problem else "")


def _format_outbox(outbox: Mapping[str, object], *, now_ms: int) -> str:
    if not outbox["updates"]:
        return f"empty, {outbox['dropped']} dropped"
    held = "held by a gateway, waits for its verdict" if outbox["is_held"] else "waits to be sent"
    until_ms = _integer(outbox["until_ms"])
    told = f"update of round {outbox['round']}, {outbox['bytes']} bytes"
    if not outbox["is_held"] and until_ms <= now_ms:
        return f"{told}; its round is over, and it waits to hear whether it counts"
    return f"{told}, {held} until {_format_time(until_ms)}"


def _since(status: Mapping[str, object], now_ms: int) -> str:
    age_ms = status["report_age_ms"]
    if not isinstance(age_ms, int):
        return ""
    return f" (pid {status['pid']}, told {age_ms // 1_000} s ago)" if status["is_running"] else ""


def _age_ms(report: Mapping[str, object], now_ms: int) -> int | None:
    written_ms = report.get("written_ms")
    return max(0, now_ms - written_ms) if isinstance(written_ms, int) else None


def _format_time(time_ms: int) -> str:
    if not 0 < time_ms < 2**47:
        return "unknown"
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0
