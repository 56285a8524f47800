"""`headwater-model`: export, build and check training programs.

Exit code 0 says done, 1 says that a program or a file does not hold, 2 that the command cannot be
carried out as given. Nothing heavy is imported before a command needs it.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from headwater_protocol.errors import ConfigError, HeadwaterError, InvalidMessage

if TYPE_CHECKING:
    from headwater_models.inspection import ProgramReport

PROGRAM = "headwater-model"


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Print `message` with the way to help, and exit with code 2."""
        self.exit(2, f"{PROGRAM}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = _build_parser().parse_args(argv)
    try:
        return _run(arguments)
    except (HeadwaterError, OSError) as error:
        if arguments.debug:
            raise
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1 if isinstance(error, InvalidMessage) else 2


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Export, build and check training programs.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="write a program from a forward pass in Python")
    export.add_argument(
        "builder", metavar="MODULE:BUILDER", help="a function that returns a ProgramDefinition"
    )
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")

    build = commands.add_parser("build", help="rebuild the programs that come with the package")
    build.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write to (default: the package's)"
    )
    build.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file would change"
    )

    check = commands.add_parser("check", help="say whether a file is a program, and why not")
    check.add_argument("file", type=Path, metavar="FILE", help="a .tflite file")
    check.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "export":
        return _export(arguments.builder, arguments.out)
    if arguments.command == "build":
        return _build(arguments.out, check=arguments.check)
    return _check(arguments.file, as_json=arguments.json)


def _export(builder: str, out: Path) -> int:
    import importlib

    module_name, separator, attribute = builder.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigError(
            "MODULE:BUILDER",
            f"{builder!r} has another form",
            fix="write it like examples.custom_program:build",
        )
    _require_tensorflow()
    from headwater_models.authoring.definition import ProgramDefinition
    from headwater_models.authoring.export import export_program

    # A console script does not search the current folder, where a data scientist's module is.
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "MODULE:BUILDER", str(error), fix="run from the folder that holds the module"
        ) from error
    definition = found() if callable(found) else found
    if not isinstance(definition, ProgramDefinition):
        raise ConfigError(
            "MODULE:BUILDER",
            f"{builder} gives a {type(definition).__name__}",
            fix="return a headwater_models.authoring.definition.ProgramDefinition",
        )
    with _quiet_stderr():
        data = export_program(definition)
    out.write_bytes(data)
    print(f"{out}: {len(data)} bytes")
    return 0


def _build(out: Path | None, *, check: bool) -> int:
    version = _require_tensorflow()
    from headwater_models.authoring.export import export_program
    from headwater_models.authoring.shipped import BUILT_WITH, SHIPPED

    folder = out if out is not None else Path(__file__).parent / "programs"
    if not folder.is_dir():
        raise ConfigError("--out", f"{folder} is no folder", fix="create it first")
    num_changed = 0
    for name, define in sorted(SHIPPED.items()):
        path = folder / f"{name}.tflite"
        with _quiet_stderr():
            data = export_program(define())
        is_same = path.is_file() and path.read_bytes() == data
        num_changed += not is_same
        if not is_same and not check:
            path.write_bytes(data)
        verdict = "unchanged" if is_same else "differs" if check else "written"
        print(f"{name}: {len(data)} bytes, {verdict}")
    if not check or not num_changed:
        return 0
    if version != BUILT_WITH:
        raise ConfigError(
            "tensorflow",
            f"version {version} writes other bytes than {BUILT_WITH}, which built these files",
            fix=f"install {BUILT_WITH} to compare",
        )
    print(f"{PROGRAM}: {num_changed} files differ; run {PROGRAM} build", file=sys.stderr)
    return 1


def _require_tensorflow() -> str:
    try:
        with _quiet_stderr():
            import tensorflow as tf
    except ImportError as error:
        raise ConfigError(
            "tensorflow", "it is not installed", fix='run pip install "headwater[export]"'
        ) from error
    return str(tf.__version__)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop what TensorFlow's native code logs; no setting of its own silences all of it."""
    import os

    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _check(file: Path, *, as_json: bool) -> int:
    import json

    from headwater_models.inspection import inspect_program

    data = file.read_bytes()
    try:
        report = inspect_program(data)
    except InvalidMessage as error:
        if as_json:
            print(json.dumps({"file": str(file), "ok": False, "problems": [str(error)]}, indent=2))
        else:
            print(f"{file}: {error}")
        return 1
    if as_json:
        print(json.dumps({"file": str(file)} | _describe(report), indent=2))
    else:
        _print_report(file, report)
    return 1 if report.problems else 0


def _describe(report: "ProgramReport") -> dict[str, object]:
    layout = report.layout
    return {
        "ok": not report.problems,
        "problems": list(report.problems),
        "digest": report.digest.hex(),
        "num_bytes": report.num_bytes,
        "num_parameters": layout.num_parameters if layout else 0,
        "input_shape": list(report.input_shape),
        "num_classes": report.num_classes,
        "layout": [
            {"shape": list(tensor.shape), "fan_in": tensor.fan_in}
            for tensor in (layout.tensors if layout else ())
        ],
        "signatures": {
            signature.name: {
                kind: {
                    tensor.name: {"dtype": tensor.dtype.name.lower(), "shape": list(tensor.shape)}
                    for tensor in tensors
                }
                for kind, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs))
            }
            for signature in report.signatures
        },
        "ops": [
            {
                "name": op.name,
                "version": op.version,
                "num_calls": op.num_calls,
                "problem": op.problem,
            }
            for op in report.ops
        ],
    }


def _print_report(file: Path, report: "ProgramReport") -> None:
    from headwater_models.inspection import TensorReport, format_tensor

    def listing(tensors: Sequence[TensorReport]) -> str:
        return ", ".join(f"{t.name}: {format_tensor(t.dtype, t.shape)}" for t in tensors)

    print(f"{file}: {report.num_bytes} bytes, sha256 {report.digest.hex()}")
    for signature in report.signatures:
        print(f"  {signature.name}({listing(signature.inputs)}) -> {listing(signature.outputs)}")
    if report.layout:
        print(f"  {report.layout.num_parameters} parameters:")
        for tensor in report.layout.tensors:
            print(f"    {' x '.join(map(str, tensor.shape))}, fan-in {tensor.fan_in or 'none'}")
    print(f"  operations: {', '.join(f'{op.name} x{op.num_calls}' for op in report.ops)}")
    for problem in report.problems:
        print(f"  problem: {problem}")
    print("  ok" if not report.problems else f"  {len(report.problems)} problems")


if __name__ == "__main__":
    raise SystemExit(main())
