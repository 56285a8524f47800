"""Write docs/reason-codes.md: `python -m tests.support.make_reason_codes`."""

from pathlib import Path

from headwater_protocol.reasons import MEANINGS

PAGE = Path(__file__).parents[2] / "docs" / "reason-codes.md"

HEAD = """# Reason codes

Why a message, a transaction or an update was refused: what a device reads in a receipt, an operator
in a counter and an auditor on a ledger. A code is never renamed, only added. The table is made from
`protocol/headwater_protocol/reasons.py` by `python -m tests.support.make_reason_codes`.

| code | meaning |
|---|---|
"""


def make_page() -> str:
    """The page's text."""
    return HEAD + "".join(f"| `{code}` | {meaning} |\n" for code, meaning in MEANINGS.items())


if __name__ == "__main__":
    PAGE.write_text(make_page())
