"""A real browser opens the page without a complaint, and its tables sort. Skipped where none is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.unit.evaluation.report.made_up import evaluate, scenes
from x2sam_ros.evaluation.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason=f"no browser is installed: none of {', '.join(NAMES)}")

PROBE = """
const table = [...document.querySelectorAll("table.sortable")].at(-1);
const column = (place) => [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
const seen = { before: column(0), images: [...document.images].map((image) => image.naturalWidth) };
const [name, score] = table.querySelectorAll("th button");
score.click(); seen.falling = [column(0), score.parentElement.getAttribute("aria-sort"), column(1)];
score.click(); seen.rising = [column(0), score.parentElement.getAttribute("aria-sort")];
name.click(); seen.names = [column(0), name.parentElement.getAttribute("aria-sort")];
const curves = document.querySelector(".curves"), strip = curves.querySelector(".strip");
const box = strip.getBoundingClientRect();
const words = () => [curves.querySelector(".where").textContent, strip.nextElementSibling.textContent];
seen.rest = words();
strip.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: box.left + box.width * 0.5 }));
seen.hover = words();
curves.dispatchEvent(new PointerEvent("pointerleave"));
seen.after = words();
seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.documentElement.dataset.seen = JSON.stringify(seen);
console.error("the probe is through");
"""


def open_page(path: Path, folder: Path) -> tuple[str, list[str]]:
    """Return the page as the browser has it, and what stands in its console."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--dump-dom"]
    offline = ["--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
    run = subprocess.run([*command, *offline, path.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    return run.stdout, re.findall(r"CONSOLE.*", run.stderr)


def test_the_page_opens_sorts_and_answers_the_pointer(tmp_path: Path) -> None:
    dataset = scenes(3)
    results = evaluate(tmp_path, dataset)
    page = write_report(results, tmp_path, lambda cell: dataset)
    dom, console = open_page(page, tmp_path / "profile")
    assert console == [] and "</html>" in dom
    text = page.read_text(encoding="utf-8")
    # The page allows no script but its own: a probe needs a copy without that rule.
    probed = tmp_path / "probed.html"
    without, count = re.subn(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
    assert count == 1
    probed.write_text(without.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    dom, console = open_page(probed, tmp_path / "profile")
    assert len(console) == 1 and "the probe is through" in console[0], "the console is heard"
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found is not None
    seen = json.loads(unescape(found[1]))
    scores = {result.sequence: result.metrics.get("J&F", 0.0) for result in results.cells[-1].sequences}
    falling = sorted((name for name in scores if name != "broken"), key=lambda name: -scores[name])
    assert seen["before"] == ["broken", *sorted(falling)]
    assert seen["falling"][:2] == [[*falling, "broken"], "descending"]
    assert seen["rising"] == [[*reversed(falling), "broken"], "ascending"]
    assert seen["names"] == [sorted(scores), "ascending"]
    assert seen["images"] and min(seen["images"]) > 0
    assert seen["hover"][0] == "frame 12 · 0.40 s" and seen["after"] == seen["rest"] != seen["hover"]
    assert seen["wide"] <= 0, "the page does not scroll sideways"


def test_the_rule_of_the_page_stops_a_script_that_got_in(tmp_path: Path) -> None:
    dataset = scenes(1)
    page = write_report(evaluate(tmp_path, dataset), tmp_path, None)
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", "<script>document.body.dataset.evil = 1</script></body>"), encoding="utf-8")
    dom, console = open_page(page, tmp_path / "profile")
    assert "data-evil" not in dom and any("Content Security Policy" in line for line in console)
