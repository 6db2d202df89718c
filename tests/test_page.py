"""The page of an animation, in a real browser."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-dev-shm-usage", "--disable-component-update", "--disable-sync", "--window-size=1000,1000")
PIXELS = (
    "const c = document.querySelectorAll('canvas')[arguments[0]];"
    "return [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
)

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and ChromeDriver (Debian: chromium-driver)"
)


class Page:
    """The page, as a user and a debugger see it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def pixels(self, panel: int = 0) -> np.ndarray:
        width, height, *values = self.driver.execute_script(PIXELS, panel)
        return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]

    def now(self) -> tuple[float, int]:
        text = self.driver.find_element(By.ID, "now").text  # t 0.50, frame 3 of 5
        words = text.replace(",", "").split()
        return float(words[1]), int(words[3])

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def drag(self, fraction: float) -> None:
        """Drag the slider's knob to a fraction of its length."""
        slider = self.driver.find_element(By.ID, "time")
        half = slider.size["width"] / 2
        value = float(slider.get_property("value"))  # type: ignore[arg-type]
        knob = half - 8  # its center does not reach the ends
        chain = ActionChains(self.driver).move_to_element_with_offset(slider, round((2 * value - 1) * knob), 0)
        chain.click_and_hold().move_to_element_with_offset(slider, round((2 * fraction - 1) * half), 0).release().perform()

    def wait(self, condition: Callable[[], bool]) -> None:
        WebDriverWait(self.driver, 20).until(lambda _: condition())

    def errors(self) -> list[dict[str, Any]]:
        return [line for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]  # type: ignore[no-untyped-call]

    def requests(self) -> set[str]:
        """The schemes of all requested addresses."""
        messages = [json.loads(line["message"])["message"] for line in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        asked = [
            message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
        ]
        return {address.split(":")[0] for address in asked}


@pytest.fixture
def open_page() -> Iterator[Callable[[Path], Page]]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start here: {(error.msg or '').splitlines()[:1]}")

    def visit(path: Path) -> Page:
        driver.get(path.as_uri())
        page = Page(driver)
        page.wait(lambda: driver.execute_script("return [...document.images].every((one) => one.complete)"))
        page.wait(lambda: page.pixels().shape[0] > 0 and page.pixels().any())
        return page

    yield visit
    driver.quit()


@needs_browser
def test_an_animation_is_scrubbed_and_played(
    cli: Cli, tiny_run: Path, tmp_path: Path, open_page: Callable[[Path], Page]
) -> None:
    base = ("--run", tiny_run, "--n", 3, "--frames", 5, "--direction", "both", "--columns", 3)
    assert cli("animate", "animation.html", *base, "--fps", 50, "--loop", 1, "--hold", 0).code == 0
    assert cli("animate", "animation.png", *base, "--scale", 1).code == 0
    with Image.open(tmp_path / "animation.png") as animation:
        frames = []
        for k in range(10):
            animation.seek(k)
            frames.append(np.asarray(animation.convert("RGB")).copy())
    page = open_page(tmp_path / "animation.html")

    # The slider: the images at its left end, noise at the right one.
    caption = page.driver.find_element(By.ID, "panels")
    assert page.now() == (0.0, 1)
    assert "(tiny) t 0.00 no noise blur 0.0 px" in caption.text
    assert np.array_equal(page.pixels(), frames[0])
    page.drag(1)
    assert "t 1.00 log-SNR -10.0 blur > 8 px" in caption.text
    assert page.now() == (1.0, 5)
    assert np.array_equal(page.pixels(), frames[4])
    assert page.pixels().std() > 80
    page.drag(0.5)
    assert page.now() == (0.5, 3)
    page.drag(0)
    assert np.array_equal(page.pixels(), frames[0])

    # The keyboard.
    page.press(Keys.ARROW_RIGHT)
    assert page.now() == (0.25, 2)
    page.press(Keys.END)
    assert page.now() == (1.0, 5)
    page.press(Keys.HOME, Keys.ARROW_LEFT)
    assert page.now() == (0.0, 1)
    page.press("d")
    assert page.now() == (1.0, 1)
    assert np.array_equal(page.pixels(), frames[5])
    page.press(Keys.HOME)
    assert np.array_equal(page.pixels(), frames[9])
    width = page.driver.find_element(By.TAG_NAME, "canvas").size["width"]
    page.press("+")
    assert page.driver.find_element(By.TAG_NAME, "canvas").size["width"] == width + 26

    # Space at the end plays it from the start, once.
    page.press("d", Keys.SPACE)
    page.wait(lambda: page.now() == (0.0, 5))
    page.wait(lambda: page.driver.find_element(By.ID, "play").get_attribute("aria-label") == "play")

    # The plots show the time of the slider.
    lines = page.driver.find_elements(By.CSS_SELECTOR, "#charts polyline")
    assert len(lines) == 4  # spectrum at t = 0 and now, log-SNR, and the current time
    assert page.errors() == []
    assert page.requests() <= {"file", "data"}


@needs_browser
def test_space_pauses(cli: Cli, tiny_run: Path, tmp_path: Path, open_page: Callable[[Path], Page]) -> None:
    """Also while a button has the focus; and a narrow screen shows the whole width."""
    assert cli("animate", "animation.html", "--run", tiny_run, "--n", 1, "--fps", 4, "--show", "both").code == 0
    page = open_page(tmp_path / "animation.html")
    assert page.pixels(1).shape == (8, 8, 3)
    page.driver.find_element(By.ID, "play").click()
    page.wait(lambda: page.now()[1] >= 2)
    page.press(Keys.SPACE)
    stopped = page.now()
    assert page.driver.find_element(By.ID, "play").get_attribute("aria-label") == "play"
    page.driver.execute_async_script("setTimeout(arguments[0], 600)")
    assert page.now() == stopped
    page.driver.set_window_size(400, 800)
    page.wait(lambda: page.driver.find_element(By.TAG_NAME, "canvas").size["width"] < 400)
    assert page.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert page.errors() == []


def test_a_title_is_escaped(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    run = tiny_run.rename(tiny_run.parent / "<script>alert(1)<")
    assert cli("animate", "animation.html", "--run", run, "--n", 1, "--frames", 2).code == 0
    page = (tmp_path / "animation.html").read_text()
    (data,) = re.findall(r'<script id="animation" type="application/json">(.*)</script>', page)
    (panel,) = json.loads(data)["trajectories"][0]["panels"]
    assert panel["labels"] == ["t 1.00  log-SNR -10.0  blur > 8 px", "t 0.00  no noise  blur 0.0 px"]
    assert "<script>alert" not in page
    assert page.count("<script") == 2
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
