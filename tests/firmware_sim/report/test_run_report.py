"""The report of a run: one file, deterministic, safe against what a scenario is called."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from headwater_firmware_sim.report.run_report import render_report
from headwater_firmware_sim.report.svg import MAX_HOVERS
from headwater_firmware_sim.results import FaultRow
from tests.support.run_results import make_result

VOID = {"meta", "link", "br"}
CHARTS = ["accuracy", "participation", "rejected", "bytes", "caught", "rewards", "fairness"]


class Outline(HTMLParser):
    """Checks that tags close in order and keeps what a test asks about."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.ids = []
        self.attributes = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.attributes.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text += data


def read(text):
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    return outline


def test_the_same_result_gives_the_same_text():
    assert render_report(make_result()) == render_report(make_result())
    slower = replace(make_result(), wall_ms=9_999, peak_memory_bytes=1)
    assert render_report(slower) == render_report(make_result())
    assert render_report(make_result(seed=2)) != render_report(make_result())


def test_nothing_in_it_leaves_the_file():
    text = render_report(make_result())
    outline = read(text)
    for tag, values in outline.attributes:
        assert "src" not in values, tag
        assert values.get("href", "data:,") == "data:,"
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_each_chart_has_a_title_a_description_and_a_table():
    text = render_report(make_result())
    outline = read(text)
    assert len(outline.ids) == len(set(outline.ids))
    for key in CHARTS:
        assert {key, f"{key}-title", f"{key}-caption"} <= set(outline.ids)
        figure = text[text.index(f'<figure id="{key}"') :]
        figure = figure[: figure.index("</figure>")]
        assert figure.count("<svg") == 2
        assert figure.count('role="img"') == 2
        assert "<table>" in figure
    for tag, values in outline.attributes:
        if tag == "svg":
            assert values["aria-labelledby"] in outline.ids
            assert values["aria-describedby"] in outline.ids


def test_faults_checkpoints_and_merges_stand_on_the_time_axis():
    text = render_report(make_result())
    for name in ("partition · 1", "gateway crash · 1", "checkpoints of shard-0", "merges"):
        assert f">{name}</text>" in text
    assert "partition, shard-1, 32 s to 51 s" in text


@pytest.mark.parametrize("hostile", ["</script><script>alert(1)</script>", '"><img src=x>', "&lt;"])
def test_names_are_text_and_never_markup(hostile):
    result = make_result(title=hostile)
    rows = tuple(replace(row, shard=hostile, rejected={hostile: 1}) for row in result.rounds)
    fleet = tuple(replace(row, device_class=hostile) for row in result.fleet)
    fault = FaultRow(kind=hostile, from_ms=0, until_ms=9, target=hostile, count=1)
    config = {hostile: hostile}
    text = render_report(replace(result, rounds=rows, fleet=fleet, faults=(fault,), config=config))
    outline = read(text)
    assert hostile in outline.text
    assert "img" not in {tag for tag, _ in outline.attributes}
    assert [tag for tag, _ in outline.attributes].count("script") == len(CHARTS)


@pytest.mark.parametrize(
    "result",
    [
        make_result(rounds=0, with_faults=False),
        make_result(devices=1, shards=1, rounds=1),
        replace(make_result(), device_rounds=(), fleet=(), rounds=(), virtual_ms=0, attackers=0),
        make_result(shards=20, devices=40, rounds=3),
    ],
    ids=["no rounds", "one device", "nothing at all", "many shards"],
)
def test_runs_at_the_edges_have_a_report(result):
    assert "NaN" not in render_report(result)
    read(render_report(result))


def test_a_run_that_was_not_evaluated_has_no_curve_and_says_so():
    result = make_result()
    rounds = tuple(replace(row, accuracy=None, loss=None) for row in result.rounds)
    final = replace(result.final, accuracy=None)
    text = render_report(replace(result, rounds=rounds, globals=(), final=final))
    assert "Nothing to show in this run." in text


def test_a_backdoor_has_a_chart_of_its_own():
    result = make_result()
    rounds = tuple(replace(row, backdoor=0.5) for row in result.rounds)
    assert 'id="backdoor"' in render_report(replace(result, rounds=rounds))
    assert 'id="backdoor"' not in render_report(result)


def test_a_long_run_stays_a_small_file():
    result = make_result(rounds=MAX_HOVERS + 500, devices=4)
    text = render_report(result)
    assert len(text) < 3_000_000
    assert f"{len(result.rounds) - 200:,} more rows in rounds.csv." in text
