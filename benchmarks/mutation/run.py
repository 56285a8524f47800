"""How many seeded edits of the ledgers' transitions the tests catch.

    python benchmarks/mutation/run.py --count 30 --seed 1

Cosmic Ray (`pip install cosmic-ray`) makes the edits: flipped comparisons, dropped or negated
checks, constants off by one, swapped plus and minus, loops that never run. The tests of the ledgers
run against each, those of the transitions first, those of engines and damaged files not at all, in
the working tree, which is restored after each edit. Exit code 1 if fewer than nine in ten are
caught.
"""

import argparse
import ast
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "shard" / "headwater_shard"
MODULES = ("mainchain", "shardchain", "transition.py")
OPERATORS = re.compile(
    r"core/(AddNot|NumberReplacer|ReplaceAndWithOr|ReplaceOrWithAnd|ZeroIterationForLoop"
    r"|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceContinueWithBreak"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_FloorDiv|FloorDiv_Mul)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Lt_GtE|Gt_LtE"
    r"|GtE_Lt|LtE_Gt|In_NotIn|NotIn_In|Is_IsNot|IsNot_Is))"
)
TESTS = (
    "-m pytest -q -x -n 2 -p no:cacheprovider tests/shard/mainchain tests/shard/shardchain"
    " tests/shard tests/gateway/test_free_riders.py"
    " --ignore=tests/shard/engine --ignore=tests/shard/audit/test_damage.py"
)
Part = tuple[tuple[int, int], tuple[int, int]]
"""From a line and column to another, which is past the end."""
SECONDS_PER_EDIT = 300.0
PASS_SHARE = 0.9

CONFIG = """\
[cosmic-ray]
module-path = [{modules}]
timeout = {timeout}
excluded-modules = []
test-command = "{command}"

[cosmic-ray.distributor]
name = "local"
"""


def main() -> int:
    """Sample, run, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headwater-mutation-") as name:
        folder = Path(name)
        config, session = folder / "config.toml", folder / "session.sqlite"
        config.write_text(_config())
        _cosmic_ray("init", str(config), str(session))
        total = _sample(session, arguments.count, arguments.seed)
        print(f"{arguments.count} of {total} possible edits, seed {arguments.seed}")
        started = time.monotonic()
        _cosmic_ray("exec", str(config), str(session))
        rows = _results(session)
    caught = 0
    for module, line, operator, text, outcome in rows:
        is_caught = outcome != "SURVIVED"
        caught += is_caught
        mark = "caught  " if is_caught else "SURVIVED"
        print(f"{mark}  {module}:{line}  {operator.removeprefix('core/')}  {text}")
    print(f"{caught} of {len(rows)} caught in {time.monotonic() - started:.0f} s")
    return 0 if caught >= PASS_SHARE * len(rows) else 1


def _config() -> str:
    modules = [str((PACKAGE / name).relative_to(ROOT)) for name in MODULES]
    return CONFIG.format(
        modules=", ".join(f'"{module}"' for module in modules),
        timeout=SECONDS_PER_EDIT,
        command=f"{sys.executable} {TESTS}",
    )


def _cosmic_ray(*arguments: str) -> None:
    program = Path(sys.executable).with_name("cosmic-ray")
    subprocess.run([str(program), *arguments], cwd=ROOT, check=True)


def _sample(session: Path, count: int, seed: int) -> int:
    """Keep `count` of the edits that change behaviour, drawn by `seed`; how many there were."""
    with sqlite3.connect(session) as database:
        rows = database.execute(
            "SELECT job_id, module_path, operator_name, occurrence, start_pos_row, start_pos_col"
            " FROM mutation_specs ORDER BY module_path, operator_name, occurrence"
        ).fetchall()
        parts = {path: _read_parts(ROOT / path) for path in {row[1] for row in rows}}
        meant = [
            row[0]
            for row in rows
            if OPERATORS.fullmatch(row[2]) and _changes_behaviour(parts[row[1]], (row[4], row[5]))
        ]
        chosen = set(random.Random(seed).sample(meant, min(count, len(meant))))
        drop = [(row[0],) for row in rows if row[0] not in chosen]
        database.executemany("DELETE FROM mutation_specs WHERE job_id = ?", drop)
        database.executemany("DELETE FROM work_items WHERE job_id = ?", drop)
    return len(meant)


def _read_parts(path: Path) -> tuple[list[Part], list[Part]]:
    """Where a module's functions have their bodies, and where its formatted texts stand."""
    bodies: list[Part] = []
    texts: list[Part] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            bodies.append(_part(node.body[0], node))
        elif isinstance(node, ast.JoinedStr) or _shortens_key(node):
            texts.append(_part(node, node))
    return bodies, texts


def _shortens_key(node: ast.AST) -> TypeGuard[ast.Subscript]:
    """Whether this is `key.hex()[:16]`, which goes into messages alone."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Slice):
        return False
    called = node.value.func if isinstance(node.value, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr == "hex"


def _part(first: ast.stmt | ast.expr, last: ast.stmt | ast.expr) -> Part:
    return (
        (first.lineno, first.col_offset),
        (last.end_lineno or first.lineno, last.end_col_offset or 0),
    )


def _changes_behaviour(parts: tuple[list[Part], list[Part]], at: tuple[int, int]) -> bool:
    """Whether an edit is of what a function does.

    A constant of a module is a limit, which a test of its own names; the digits of a key in a
    message are nobody's rule.
    """
    bodies, texts = parts
    return any(begin <= at < end for begin, end in bodies) and not any(
        begin <= at < end for begin, end in texts
    )


def _results(session: Path) -> list[tuple[str, int, str, str, str]]:
    with sqlite3.connect(session) as database:
        rows = database.execute(
            "SELECT module_path, start_pos_row, operator_name, test_outcome"
            " FROM mutation_specs JOIN work_results USING (job_id)"
            " ORDER BY module_path, start_pos_row"
        ).fetchall()
    return [
        (
            str(Path(path).relative_to("shard/headwater_shard")),
            line,
            operator,
            (ROOT / path).read_text(encoding="utf-8").splitlines()[line - 1].strip()[:80],
            str(outcome).rpartition(".")[2].upper(),
        )
        for path, line, operator, outcome in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
