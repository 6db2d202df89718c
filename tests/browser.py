"""Chromium, for tests of pages as a user sees them."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-dev-shm-usage", "--disable-component-update", "--disable-sync", "--window-size=1000,1000")
QUIET += ("--force-color-profile=srgb",)
LOADED = "return [...document.images].every((one) => one.complete)"

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and ChromeDriver (Debian: chromium-driver)"
)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser without a window; the test is skipped where it does not start."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start here: {(error.msg or '').splitlines()[:1]}")
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """A page, as a user and a debugger see it."""

    def __init__(self, driver: webdriver.Chrome, path: Path) -> None:
        self.driver = driver
        driver.get(path.absolute().as_uri())
        self.wait(lambda: bool(driver.execute_script(LOADED)))

    def at(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, condition: Callable[[], bool]) -> None:
        WebDriverWait(self.driver, 20).until(lambda _: condition())

    def seen(self, element: WebElement) -> np.ndarray:
        """The screen's pixels in the box of an element, which is in sight: (H, W, 3) uint8."""
        box = self.driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", element)
        top = self.driver.execute_script("return window.scrollY")
        clip = {"x": box["x"], "y": box["y"] + top, "width": box["width"], "height": box["height"], "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": False})
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))

    def resize(self, width: int, height: int, ratio: float = 1, mobile: bool = False) -> None:
        """Show the page on a screen of this size in CSS pixels, with so many screen pixels for each along a side."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": mobile})

    def touch(self, *places: tuple[float, float]) -> None:
        """A finger goes down at the first of these places in the window, moves to the others, and goes up."""
        kinds = ["touchStart", *["touchMove"] * (len(places) - 1)]
        for kind, (x, y) in zip(kinds, places, strict=True):
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        return bool(self.driver.execute_script("return document.documentElement.scrollWidth > window.innerWidth"))

    def errors(self) -> list[dict[str, Any]]:
        return [line for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]  # type: ignore[no-untyped-call]

    def requests(self) -> set[str]:
        """The schemes of all requested addresses."""
        messages = [json.loads(line["message"])["message"] for line in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        asked = [
            message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
        ]
        return {address.split(":")[0] for address in asked}
