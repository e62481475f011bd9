"""The page as a browser shows it: nothing fetched, nothing overflowing, and what axe-core finds.

Chromium is driven over a pipe with its DevTools protocol, so no driver or package is needed; where there is no Chromium these
tests are skipped. axe-core is looked for in .cache/node_modules (npm install --prefix .cache axe-core).
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.records import load_run
from bench.report import write_report
from tests.bench.report_runs import store_full_run

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".cache" / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe"),
)
# Becomes the browser with the two ends as its descriptors 3 and 4, whichever numbers they come with.
START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
PHONE, DESK = (390, 844), (1440, 900)
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")]


class Browser:
    """One headless tab. Commands are JSON with a zero byte after each, to the browser's descriptor 3 and from its 4."""

    def __init__(self, profile: Path) -> None:
        read_commands, self._write = os.pipe()
        self._read, write_answers = os.pipe()
        ends = (read_commands, write_answers)
        command = [sys.executable, "-c", START, *map(str, ends), str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_commands)
        os.close(write_answers)
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run a command and return its result. Raises AssertionError with the browser's error."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser went away"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def show(self, page: Path, size: tuple[int, int], *, dark: bool = False, printed: bool = False) -> None:
        """Open a file and wait until it is loaded."""
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if printed else "screen", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """Evaluate an expression in the page, once its promise resolves. Raises AssertionError if it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        os.close(self._write)
        self._process.wait(timeout=20)
        os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    tab = Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(load_run(store_full_run(tmp_path_factory.mktemp("run") / "run")))


def complaints(browser: Browser) -> list[str]:
    """Errors on the console, and requests for anything but the page itself and data within it."""
    texts = []
    for event in browser.events:
        if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            texts.append(json.dumps(event["params"]))
        elif event["method"] == "Network.requestWillBeSent":
            url = event["params"]["request"]["url"]
            if not url.startswith("data:") and not url.endswith("/report/index.html"):
                texts.append(url)
    return texts


PAPER = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(21, 23, 27)"
UNFOLD = "for (const details of document.querySelectorAll('main details')) details.open = true"

OVERFLOWING = """
[...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  const inside = element.closest(".scroll");
  if (inside && inside !== element) return false;  // it scrolls in there
  const width = document.documentElement.clientWidth;  // innerWidth grows with what overflows
  return box.width && (box.right > width + 0.5 || box.left < -0.5) && !element.closest(".skip");
}).map((element) => element.outerHTML.slice(0, 120))
"""


CUT_OFF = """
[...document.querySelectorAll("figure svg text")].filter((text) => {
  const [word, all] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
  return word.left < all.left - 1 || word.right > all.right + 1 || word.top < all.top - 1 || word.bottom > all.bottom + 1;
}).map((text) => text.textContent)
"""


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_fetched_wrong_or_wider_than_the_page(
    browser: Browser, page: Path, size: tuple[int, int], dark: bool
) -> None:
    browser.show(page, size, dark=dark)
    browser.value(UNFOLD)
    assert (browser.value(OVERFLOWING), browser.value(CUT_OFF)) == ([], [])
    assert (browser.value("document.documentElement.scrollWidth"), complaints(browser)) == (size[0], [])
    assert browser.value(PAPER) == (DARK if dark else LIGHT)


def test_a_fetch_or_an_error_would_be_seen(browser: Browser, page: Path, tmp_path: Path) -> None:
    """The same page without its policy, with a picture from elsewhere, a script that throws and words that do not wrap."""
    planted = tmp_path / "report" / "index.html"
    planted.parent.mkdir()
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    more = "<img src='http://127.0.0.1:9/x.png' alt=''><script>oops()</script><p style='width:2000px'>wide</p>"
    planted.write_text(text.replace("</main>", f"{more}</main>"))
    browser.show(planted, PHONE)
    assert "http://127.0.0.1:9/x.png" in complaints(browser)
    assert any("oops" in text for text in complaints(browser))
    assert any("2000px" in text for text in browser.value(OVERFLOWING))


def test_contents_are_folded_on_a_phone_and_open_beside_a_wide_page(browser: Browser, page: Path) -> None:
    shown = []
    for size in (PHONE, DESK):
        browser.show(page, size)
        shown.append(browser.value("document.querySelector('nav a').checkVisibility()"))
    assert shown == [False, True]


def test_print_shows_what_is_folded_and_cuts_nothing_off(browser: Browser, page: Path) -> None:
    """On paper nothing scrolls: figures shrink to the page, and folded parts stand open."""
    browser.show(page, (720, 1000), dark=True, printed=True)
    assert browser.value(PAPER) == LIGHT
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    wide = "[...document.querySelectorAll('figure svg')].every((svg) => svg.getBoundingClientRect().right <= innerWidth)"
    assert browser.value(wide)
    folded = "[...document.querySelectorAll('main details')]"
    heights = f"{folded}.map((details) => details.lastElementChild.getBoundingClientRect().height)"
    assert all(height > 0 for height in browser.value(heights))


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here: npm install --prefix .cache axe-core")
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_violation(browser: Browser, page: Path, size: tuple[int, int], dark: bool) -> None:
    """Contrast, names, roles and structure, with everything unfolded; and a planted fault is caught."""
    browser.show(page, size, dark=dark)
    browser.value(UNFOLD)
    browser.value(AXE.read_text(encoding="utf-8") + ";0")
    violations = "axe.run().then((all) => all.violations.map((rule) => [rule.id, rule.nodes[0].html.slice(0, 200)]))"
    assert browser.value(violations) == []
    browser.value("document.querySelector('main p').style.color = getComputedStyle(document.body).backgroundColor")
    assert [name for name, _ in browser.value(violations)] == ["color-contrast"]
