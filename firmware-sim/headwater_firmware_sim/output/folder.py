"""The folder of a run: written whole at the end, read back by comparisons and by people.

```
result.json                                  everything but the devices by round
report.html                                  the picture
rounds.csv devices.csv device_rounds.csv     tables, and the same as .parquet with pyarrow
globals.csv checkpoints.csv faults.csv
elections.csv seats.csv penalties.csv
```
"""

import csv
import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from headwater_firmware_sim.output.parquet import has_parquet, write_parquet
from headwater_firmware_sim.output.result_json import parse_result, write_result
from headwater_firmware_sim.output.tables import TABLES, make_table
from headwater_firmware_sim.output.whole import Writer, write_whole
from headwater_firmware_sim.report.run_report import render_report
from headwater_firmware_sim.results import DeviceRoundRow, RunResult
from headwater_protocol.errors import ConfigError

RESULT_NAME: Final = "result.json"
REPORT_NAME: Final = "report.html"
DEVICE_ROUNDS_NAME: Final = "device_rounds.csv"


def save_run(result: RunResult, folder: Path) -> tuple[Path, ...]:
    """Write everything about a run into `folder`, or nothing.

    Returns:
        The files, `result.json` first.

    Raises:
        ConfigError: If the disk is full or the folder cannot be written to.
    """
    files: dict[Path, bytes | Writer] = {
        folder / RESULT_NAME: partial(write_result, result),
        folder / REPORT_NAME: render_report(result).encode(),
    }
    for name in TABLES:
        table = make_table(result, name)
        files[folder / f"{name}.csv"] = table.write_csv
        if has_parquet():
            files[folder / f"{name}.parquet"] = partial(write_parquet, table)
    write_whole(files)
    return tuple(files)


def load_run(folder: Path) -> RunResult:
    """Read a run back, with its devices by round where they are there.

    Raises:
        ConfigError: If the folder holds no run, or a damaged one.
    """
    path = folder / RESULT_NAME
    result = parse_result(_read(path), where=str(path))
    if not (folder / DEVICE_ROUNDS_NAME).is_file():
        return result
    return replace(result, device_rounds=load_device_rounds(folder))


def load_device_rounds(folder: Path) -> tuple[DeviceRoundRow, ...]:
    """Read `device_rounds.csv` of a run.

    Raises:
        ConfigError: If it is missing or damaged.
    """
    path = folder / DEVICE_ROUNDS_NAME
    rows = csv.DictReader(io.StringIO(_read(path)))
    try:
        return tuple(
            DeviceRoundRow(
                shard=row["shard"],
                round=int(row["round"]),
                device=int(row["device"]),
                device_class=row["device_class"],
                attack=row["attack"],
                outcome=row["outcome"],
                score=int(row["score"]),
                reward=int(row["reward"]),
                examples=int(row["examples"]),
            )
            for row in rows
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            str(path), f"line {rows.line_num} is damaged", fix="run the scenario again"
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else "is no text"
        raise ConfigError(
            str(path), problem.lower(), fix="name the folder of a run, with result.json in it"
        ) from error
