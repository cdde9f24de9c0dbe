"""The page in a real headless Chromium; skipped, saying so, where there is none.

``nox -s page`` runs it: it needs Debian's packages chromium and chromium-driver.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_factory import make_answered, make_run, profile

from steelyard.leaderboards.publish import publish

selenium = pytest.importorskip("selenium", reason="needs the extra 'page'")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver here"
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
HOSTILE = """<script>document.title="taken"</script><img src="https://example.org/x">"""
PHONE, DESKTOP = (390, 844), (1280, 900)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of four entries on two tasks and of a profile."""
    root = tmp_path_factory.mktemp("board")
    runs = root / "records"
    clean = {"joint": 6, "mcr": 9, HOSTILE: 8, "text_only": 5}
    for seed in (0, 1):
        for task in ("toy", "toys"):
            for label, right in clean.items():
                method = label if label.isidentifier() else "mcr"
                make_run(runs, label, profile(right, 5, 4), seed=seed, task=task, method=method)
        for label, said in (("sft", True), ("other", False)):
            answers = {"quiz": {"clean": [(True, said), (False, False), (True, True)]}}
            make_answered(runs, label, answers, seed=seed)
    publish([runs], root / "board", kinds={"joint": "control", "mcr": "objective"}, html=True)
    return root / "board"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    saved = tmp_path_factory.mktemp("saved")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(saved)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver, saved
    driver.quit()


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def shown(
    request: pytest.FixtureRequest, started: tuple[Any, Path], board: Path
) -> Iterator[tuple[Any, Path]]:
    """The page, fresh; afterwards nothing was asked for and no error was logged."""
    driver, saved = started
    width, height = request.param
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get((board / "index.html").as_uri())
    yield driver, saved
    assert driver.get_log("browser") == []
    asked = set(requests(driver))
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}, asked
    assert [url for url in asked if url.startswith("file")] == [(board / "index.html").as_uri()]


def requests(driver: Any) -> Iterator[str]:
    for line in driver.get_log("performance"):
        event = json.loads(line["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            yield event["params"]["request"]["url"]


def table(driver: Any, section: str) -> Any:
    return driver.find_element("css selector", f"#{section} table.entries")


def labels(found: Any) -> list[str]:
    """Names of the rows that are to be seen, in order."""
    rows = found.find_elements("css selector", "tbody[data-name]")
    return [row.get_attribute("data-name") for row in rows if row.is_displayed()]


def press(driver: Any, element: Any) -> None:
    """A click where the element is, below the sticky header."""
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def head(found: Any, name: str) -> Any:
    heads = found.find_elements("css selector", "th[aria-sort]")
    return next(each for each in heads if each.text == name)


def test_sorting_by_a_column_and_back(shown: tuple[Any, Path]) -> None:
    driver, _ = shown
    found = table(driver, "b-toy")
    assert labels(found) == ["mcr", HOSTILE, "joint", "text_only"]
    clean = head(found, "clean")
    button = clean.find_element("tag name", "button")
    press(driver, button)
    assert labels(found) == ["text_only", "joint", HOSTILE, "mcr"]
    assert clean.get_attribute("aria-sort") == "ascending"
    button.send_keys("\n")
    assert labels(found) == ["mcr", HOSTILE, "joint", "text_only"]
    assert clean.get_attribute("aria-sort") == "descending"
    press(driver, head(found, "entry").find_element("tag name", "button"))
    assert clean.get_attribute("aria-sort") == "none"
    assert labels(found) == [HOSTILE, "joint", "mcr", "text_only"]


def test_filtering_by_name_and_kind(shown: tuple[Any, Path]) -> None:
    driver, _ = shown
    found = table(driver, "b-toys")
    field = driver.find_element("id", "filter")
    field.send_keys("JOI")
    assert labels(found) == ["joint"]
    field.clear()
    field.send_keys("no such entry")
    assert labels(found) == []
    field.clear()
    kind = driver.find_element("id", "kind")
    kind.send_keys("objective")
    assert labels(found) == ["mcr", HOSTILE]


def test_a_row_opens_and_closes_by_its_name(shown: tuple[Any, Path]) -> None:
    driver, _ = shown
    opener = table(driver, "b-toy").find_element("css selector", "tbody th button")
    below = driver.find_element("id", opener.get_attribute("aria-controls"))
    assert not below.is_displayed() and opener.get_attribute("aria-expanded") == "false"
    press(driver, opener)
    assert below.is_displayed() and opener.get_attribute("aria-expanded") == "true"
    for words in ("Difference to the control", "Cost by phase", "Reproduce it", "image-blank"):
        assert words in below.text
    opener.send_keys("\n")
    assert not below.is_displayed()


def test_a_column_can_be_left_out(shown: tuple[Any, Path]) -> None:
    driver, _ = shown
    chooser = driver.find_element("css selector", "#b-toy .tools details")
    press(driver, chooser.find_element("tag name", "summary"))
    gap = next(f for f in chooser.find_elements("tag name", "label") if f.text == "gap")
    place = "return [...document.querySelectorAll('#b-toy table.entries')[0].tHead.rows[0].cells]"
    heads = driver.execute_script(place)
    assert next(cell for cell in heads if cell.text == "gap").is_displayed()
    gap.click()
    assert not [cell for cell in heads if cell.is_displayed() and cell.text == "gap"]


@pytest.mark.parametrize("kind", ["csv", "json", "tex"])
def test_downloads_are_the_published_files(shown: tuple[Any, Path], board: Path, kind: str) -> None:
    driver, saved = shown
    title = {"csv": "CSV", "json": "JSON", "tex": "LaTeX"}[kind]
    buttons = driver.find_elements("css selector", "#b-toy .tools button")
    press(driver, next(each for each in buttons if each.text == title))
    file, wanted = saved / f"board-toy.{kind}", (board / f"board-toy.{kind}").read_text("utf-8")
    deadline = time.monotonic() + 20
    # The browser reserves the name with an empty file before it moves the download there.
    while not (file.is_file() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    text = file.read_text("utf-8")
    file.unlink()
    if kind == "json":
        assert json.loads(text) == json.loads(wanted)
    else:
        assert text == wanted


def test_the_page_is_no_wider_than_the_screen(shown: tuple[Any, Path]) -> None:
    driver, _ = shown
    for details in driver.find_elements("tag name", "details"):
        driver.execute_script("arguments[0].open = true", details)
    for opener in driver.find_elements("css selector", "tbody th button[aria-controls]"):
        driver.execute_script("arguments[0].click()", opener)
    wide = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]


def test_a_hostile_name_is_text(shown: tuple[Any, Path]) -> None:
    driver, _ = shown
    assert driver.title == "Leaderboards"
    names = [each.text for each in driver.find_elements("css selector", "#b-toy .name")]
    assert HOSTILE in names


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(shown: tuple[Any, Path], scheme: str) -> None:
    driver, _ = shown
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    names = ["paper", "tint", "ink", "soft", "accent", "better", "worse"]
    style = (
        "return getComputedStyle(document.documentElement).getPropertyValue('--' + arguments[0])"
    )
    colour = {name: driver.execute_script(style, name).strip() for name in names}
    for name in names[2:]:
        for ground in names[:2]:
            assert contrast(colour[name], colour[ground]) >= 4.5, (name, ground)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white_is_twenty_one() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
