"""The commands of `docs/raspberry-pi.md`: fenced blocks whose first line says where they are run.

```sh gateway            on the gateway's machine
```sh device             on the Pi
```sh device serve       there too, until stopped

A word after the place names the block, for its figures. A block without a place is for readers.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs/raspberry-pi.md"
PLACES: Final = ("gateway", "device")
KINDS: Final = ("", "install", "serve")
_FENCE: Final = re.compile(r"^```(.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Commands of one fence."""

    place: str
    """`gateway` or `device`."""
    kind: str
    """`serve` runs until stopped, `install` is timed; empty for all others."""
    script: str
    """Ends with a line feed."""
    line: int
    """Of the fence in the page, from 1."""


def read_blocks(text: str) -> list[Block]:
    """The marked blocks in the order of the page.

    Raises:
        ValueError: If a marked block is not closed, is empty, or is marked with an unknown word.
    """
    blocks: list[Block] = []
    opened: tuple[int, list[str]] | None = None
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence is None:
            body.append(line)
        elif opened is None:
            opened, body = (number, fence.group(1).split()), []
        else:
            start, words = opened
            opened = None
            if len(words) > 1:
                blocks.append(_make_block(words, body, start))
    if opened is not None:
        raise ValueError(f"line {opened[0]}: the block is not closed")
    return blocks


def substitute(script: str, replacements: dict[str, str]) -> str:
    """`script` with the page's example names replaced by those of a run.

    Longer names first, so that one which holds another is not torn apart.
    """
    for name in sorted(replacements, key=len, reverse=True):
        script = script.replace(name, replacements[name])
    return script


def split_copies(script: str) -> list[str]:
    """`script` in order, its lines of scp apart: the copying has no other machine to ask."""
    parts: list[str] = []
    for line in script.splitlines(keepends=True):
        is_copy = line.startswith("scp ")
        if parts and not is_copy and not parts[-1].startswith("scp "):
            parts[-1] += line
        else:
            parts.append(line)
    return parts


def _make_block(words: list[str], body: list[str], line: int) -> Block:
    place, kind = words[1], " ".join(words[2:])
    if words[0] != "sh" or place not in PLACES or kind not in KINDS:
        raise ValueError(f"line {line}: {' '.join(words)!r} says no place or kind that is known")
    if not any(part.strip() for part in body):
        raise ValueError(f"line {line}: the block is empty")
    return Block(place=place, kind=kind, script="\n".join(body) + "\n", line=line)
