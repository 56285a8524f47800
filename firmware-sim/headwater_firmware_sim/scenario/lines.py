"""Where in a TOML text each key stands, which the standard library's parser does not tell.

Runs on texts that the parser has accepted, so it only has to find statements, not to check them.
"""

import re
from typing import Final

Path = tuple[str | int, ...]
"""Keys from the root; an integer counts the tables of an array."""

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED: Final = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER: Final = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_ASSIGNMENT: Final = re.compile(rf"\s*({_DOTTED})\s*=")
_INLINE: Final = re.compile(rf"({_KEY})\s*=")
_TEXT: Final = re.compile(r'"""|\'\'\'|"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*')


def find_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every table and key of `text`; keys within inline tables too."""
    lines: dict[Path, int] = {}
    table: Path = ()
    counts: dict[Path, int] = {}
    depth, quote = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not depth and not quote:
            header, assignment = _HEADER.match(line), _ASSIGNMENT.match(line)
            if header:
                table = _resolve(_split(header[2]), counts, is_array=header[1] == "[[")
                lines.setdefault(table, number)
                if isinstance(table[-1], int):
                    lines.setdefault(table[:-1], number)
                continue
            if assignment:
                path = (*table, *_split(assignment[1]))
                lines.setdefault(path, number)
                for inner in _INLINE.finditer(line, assignment.end()):
                    lines.setdefault((*path, *_split(inner[1])), number)
        depth, quote = _follow(line, depth, quote)
    return lines


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(key.strip("\"'") for key in re.findall(_KEY, dotted))


def _resolve(keys: tuple[str, ...], counts: dict[Path, int], *, is_array: bool) -> Path:
    path: Path = ()
    for position, key in enumerate(keys):
        path = (*path, key)
        is_last = position == len(keys) - 1
        if is_last and is_array:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _follow(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Bracket depth and open multi-line quote after `line`."""
    position = 0
    while position < len(line):
        if quote:
            end = line.find(quote, position)
            if end < 0:
                return depth, quote
            position, quote = end + 3, ""
            continue
        match = _TEXT.search(line, position)
        plain = line[position : match.start() if match else len(line)]
        depth += plain.count("[") + plain.count("{") - plain.count("]") - plain.count("}")
        if match is None:
            break
        quote = match[0] if match[0] in {'"""', "'''"} else ""
        position = match.end()
    return max(0, depth), quote
