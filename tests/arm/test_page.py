"""The page's blocks are read as they stand, and wrong marks are not passed over."""

import pytest

from tests.arm.page import PAGE, read_blocks, split_copies, substitute


def test_the_page_leads_from_founding_to_running_on_both_sides() -> None:
    blocks = read_blocks(PAGE.read_text())
    assert [(block.place, block.kind) for block in blocks] == [
        ("gateway", ""),
        ("device", "install"),
        ("device", ""),
        ("gateway", ""),
        ("gateway", "serve"),
        ("device", "serve"),
        ("device", ""),
    ]
    assert "install-agent.sh" in blocks[1].script
    assert blocks[5].script.endswith("headwater-agent run\n")


def test_only_marked_blocks_are_followed() -> None:
    text = "```sh\nnot this\n```\n```sh device serve\nthis\n\nand this\n```\n```\nnor this\n```\n"
    (block,) = read_blocks(text)
    assert (block.place, block.kind, block.line) == ("device", "serve", 4)
    assert block.script == "this\n\nand this\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```sh device\nls\n", "line 1: the block is not closed"),
        ("\n```sh device\n\n```\n", "line 2: the block is empty"),
        ("```sh laptop\nls\n```\n", "line 1: 'sh laptop' says no place"),
        ("```sh device serv\nls\n```\n", "line 1: 'sh device serv' says no place"),
        ("```python device\nls\n```\n", "line 1: 'python device' says no place"),
    ],
)
def test_a_wrong_mark_names_its_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_blocks(text)


def test_longer_names_are_replaced_first() -> None:
    names = {"HOST": "short", "HOST:1883": "127.0.0.1:5"}
    assert substitute("mqtt://HOST:1883 HOST", names) == "mqtt://127.0.0.1:5 short"


def test_copies_stay_in_their_place() -> None:
    script = "make a\nmake b\nscp a pi:\nscp b pi:\nrm a\n"
    assert split_copies(script) == ["make a\nmake b\n", "scp a pi:\n", "scp b pi:\n", "rm a\n"]
    assert "".join(split_copies(script)) == script
