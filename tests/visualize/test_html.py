"""The web page: one file, small, safe, and what a browser makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.html import write_page
from bixt3d.visualize.scene import ERROR, PALETTE, RIGHT, rgb
from tests.markers import needs_browser, slow

EVIL = "</script><img src=x onerror='window.evil=1'>\"'`"


def cloud(name: str = "first", seed: int = 0, layers: int = 3, latents: int = 16) -> LabelledCloud:
    rng, count = np.random.default_rng(seed), 2500
    points = rng.uniform(-1, 1, (count, 3)) * [3, 2, 1] + 1000
    truth = (points[:, 0] > 1000).astype(int) + 4
    prediction = np.where(points[:, 1] > 1001, 9 - truth, truth)
    attention = tuple(rng.random((latents, count), dtype=np.float32) for _ in range(layers))
    names = ["", "", "", "", "body", "handle"]
    sure = rng.random(count, dtype=np.float32)
    about = (truth, prediction, sure, attention, "IoU 80.0%")
    return LabelledCloud(name, points, "Mug", [4, 5], names, *about)


def test_fifty_shapes_of_a_deep_model_stay_below_ten_megabytes(tmp_path: Path) -> None:
    """Random attention packs worst of all."""
    clouds = (cloud(f"shape {i}", i, layers=12, latents=64) for i in range(50))
    path = write_page(clouds, tmp_path / "new" / "page.html")
    assert 1e6 < path.stat().st_size < 10e6
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_page_asks_nothing_of_a_network_and_names_stay_names(tmp_path: Path) -> None:
    text = write_page([cloud(EVIL)], tmp_path / "page.html", title=EVIL).read_text()
    assert EVIL not in text and "onerror='window.evil" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", text)


def test_scan_of_millions_of_points_fits_into_a_browser(tmp_path: Path) -> None:
    points = np.random.default_rng(0).random((600_000, 3))
    path = write_page([LabelledCloud("scan", points)], tmp_path / "page.html")
    bare = write_page([LabelledCloud("one", points[:1])], tmp_path / "bare.html").stat().st_size
    assert path.stat().st_size - bare < 500_000


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no clouds to write"):
        write_page([], tmp_path / "page.html")
    with pytest.raises(ValueError, match="is a folder"):
        write_page([cloud()], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        *("headless=new", "no-sandbox", "use-gl=angle", "use-angle=swiftshader", "enable-unsafe-swiftshader"),
        *("disable-background-networking", "disable-component-update", "disable-sync", "no-first-run"),
        *("window-size=1280,800", f"user-data-dir={tmp_path / 'profile'}", "disable-dev-shm-usage"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def shares(browser: Any, path: Path, *colors: str) -> list[float]:
    from matplotlib.image import imread

    assert browser.save_screenshot(str(path))
    pixels = imread(path)[:, :900, :3].reshape(-1, 3)  # without the panel and its legend
    return [float((np.abs(pixels - rgb(color)).max(1) < 0.02).mean()) for color in colors]


def wait_for(browser: Any, path: Path, *colors: str) -> list[float]:
    """The shares of the colours once each is seen, or after a minute."""
    import time

    end = time.monotonic() + 60
    while min(found := shares(browser, path, *colors)) < 0.002 and time.monotonic() < end:
        time.sleep(0.5)
    return found


@slow
@needs_browser
def test_in_a_browser(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    worse = cloud(EVIL, 1)
    worse = replace(worse, prediction=9 - np.asarray(worse.truth))
    page = write_page(
        [worse, cloud()], tmp_path / "page.html", title="a <b>title</b>"
    )  # opens with the second
    browser.get(page.as_uri())
    assert min(wait_for(browser, tmp_path / "a.png", PALETTE[0], PALETTE[1])) > 0.002
    headline = browser.find_element(By.ID, "headline")
    assert "first" in headline.text and "IoU 80.0%" in headline.text
    buttons = {b.text.lower(): b for b in browser.find_elements(By.CSS_SELECTOR, "#modes button")}
    assert list(buttons) == ["prediction", "truth", "error", "confidence", "attention", "side by side"]
    assert all(b.size["width"] >= b.get_property("scrollWidth") for b in buttons.values())  # no name is cut
    buttons["error"].click()
    right, wrong, part = (*wait_for(browser, tmp_path / "b.png", RIGHT, ERROR), 0.0)
    assert min(right, wrong) > 0.002, (right, wrong, part)
    assert shares(browser, tmp_path / "b.png", PALETTE[0])[0] < 0.001
    for name in ("confidence", "attention", "truth"):
        buttons[name].click()
        assert name in headline.text or name == "attention" and "layer 1 of 3" in headline.text
    buttons["side by side"].click()
    found = wait_for(browser, tmp_path / "c.png", RIGHT, ERROR, PALETTE[0], PALETTE[1])
    assert min(found) > 0.002 and browser.execute_script("return Plotly && byId('plot').data.length") == 3
    assert "% of the points wrong" in headline.text
    plot = browser.find_element(By.ID, "plot")
    ActionChains(browser).drag_and_drop_by_offset(plot, 80, 30).perform()
    turned = (
        "const l = byId('plot')._fullLayout; return [l.scene, l.scene2, l.scene3].map((s) => s.camera.eye)"
    )
    eyes = browser.execute_script(turned)
    assert eyes[0] == eyes[1] == eyes[2]
    Select(browser.find_element(By.ID, "order")).select_by_value("worst")
    WebDriverWait(browser, 30).until(lambda _: EVIL in headline.text)
    browser.find_element(By.ID, "next").click()
    WebDriverWait(browser, 30).until(lambda _: "first" in headline.text)
    browser.find_element(By.ID, "next").click()
    WebDriverWait(browser, 30).until(lambda _: EVIL in headline.text)  # its cloud is unpacked first
    assert browser.execute_script("return window.evil") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [entry["message"] for entry in browser.get_log("performance")]
    sent = [message for message in messages if "requestWillBeSent" in message]
    assert sent and re.findall(r'"url":"(https?://[^"]+)"', "".join(sent)) == []


@slow
@needs_browser
def test_classifier_and_own_colours_in_a_browser(browser: Any, tmp_path: Path) -> None:
    """The plain shape with bars of the classes, and a cloud in its own colours, on a narrow screen."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    points = np.random.default_rng(0).uniform(-1, 1, (2500, 3))
    named = LabelledCloud("a", points, "mug", scores={"mug": 0.2, "cup": 0.7, "vase": 0.1}, up="z")
    own = LabelledCloud("b", points, color=np.tile(rgb("#12AB34"), (2500, 1)))
    browser.set_window_size(500, 900)
    browser.get(write_page([named, own], tmp_path / "page.html").as_uri())
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script("return document.body.dataset.shown"))
    shape = Select(browser.find_element(By.ID, "shape"))
    shape.select_by_visible_text("a")
    bars = browser.find_element(By.ID, "bars")
    WebDriverWait(browser, 30).until(lambda _: "cup 70.0%" in bars.text)
    assert bars.text.split("\n") == ["cup 70.0%", "mug 20.0%", "vase 10.0%"]
    assert "truth mug" in browser.find_element(By.ID, "headline").text
    shape.select_by_visible_text("b")
    assert wait_for(browser, tmp_path / "b.png", "#12AB34")[0] > 0.01
    assert not bars.is_displayed()
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
