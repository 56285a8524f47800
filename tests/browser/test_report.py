"""The report in a real browser: no error, no request, readable on a laptop and on a phone."""

import pytest

from headwater_firmware_sim.report.run_report import render_report
from tests.support.browser import chromium
from tests.support.run_results import make_result

pytestmark = pytest.mark.browser

SIZES = {"laptop": (1_280, 900), "phone": (390, 844)}
SHOWN = """[...document.querySelectorAll("figure svg")]
  .filter((svg) => svg.getBoundingClientRect().width > 0).map((svg) => svg.classList[0])"""
POINT = """(() => {
  const svg = [...document.querySelectorAll("#accuracy svg")]
    .find((one) => one.getBoundingClientRect().width > 0);
  const box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 20, clientY: box.top}));
  return document.querySelector("#accuracy .tip").innerText;
})()"""
STEP = """(() => {
  const svg = document.querySelector("#participation svg");
  for (const key of ["ArrowRight", "ArrowRight"]) {
    svg.dispatchEvent(new KeyboardEvent("keydown", {key}));
  }
  const tip = document.querySelector("#participation .tip").innerText;
  svg.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
  return tip + "|" + document.querySelector("#participation .tip").hidden;
})()"""


def test_the_report_opens_without_an_error_or_a_request(tmp_path):
    report = tmp_path / "report.html"
    report.write_text(render_report(make_result(devices=120, rounds=12)), encoding="utf-8")
    with chromium(tmp_path / "profile") as tab:
        for name, (width, height) in SIZES.items():
            for is_dark in (False, True):
                tab.resize(width, height, is_dark=is_dark)
                tab.open(report.as_uri())
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                assert set(tab.evaluate(SHOWN)) == {name}
                assert "merged model" in tab.evaluate(POINT)
                tab.screenshot(tmp_path / f"{name}-{'dark' if is_dark else 'light'}.png")
        tip = tab.evaluate(STEP)
        assert tip.startswith("round 2\n")
        assert "accepted" in tip
        assert tip.endswith("|true")
        assert tab.problems == []
        assert set(tab.requests) <= {report.as_uri(), "data:,"}
    assert (tmp_path / "phone-dark.png").stat().st_size > 10_000


def test_a_console_error_would_be_seen(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<script>console.error('planted'); missing()</script>", encoding="utf-8")
    with chromium(tmp_path / "profile") as tab:
        tab.open(page.as_uri())
        assert any("planted" in problem for problem in tab.problems)
        assert any("missing" in problem for problem in tab.problems)
