"""The page of an animation, in a real browser."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, chromium, needs_browser
from conftest import Cli
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PIXELS = (
    "const c = document.querySelectorAll('canvas')[arguments[0]];"
    "return [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
)


class AnimationPage(Page):
    """The page of an animation, which draws on canvases."""

    def pixels(self, panel: int = 0) -> np.ndarray:
        width, height, *values = self.driver.execute_script(PIXELS, panel)
        return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]

    def now(self) -> tuple[float, int]:
        text = self.at("now").text  # t 0.50, frame 3 of 5
        words = text.replace(",", "").split()
        return float(words[1]), int(words[3])

    def drag(self, fraction: float) -> None:
        """Drag the slider's knob to a fraction of its length."""
        slider = self.at("time")
        half = slider.size["width"] / 2
        value = float(slider.get_property("value"))  # type: ignore[arg-type]
        knob = half - 8  # its center does not reach the ends
        chain = ActionChains(self.driver).move_to_element_with_offset(slider, round((2 * value - 1) * knob), 0)
        chain.click_and_hold().move_to_element_with_offset(slider, round((2 * fraction - 1) * half), 0).release().perform()


@pytest.fixture
def open_page() -> Iterator[Callable[[Path], AnimationPage]]:
    with chromium() as driver:

        def visit(path: Path) -> AnimationPage:
            page = AnimationPage(driver, path)
            page.wait(lambda: page.pixels().shape[0] > 0 and page.pixels().any())
            return page

        yield visit


@needs_browser
def test_an_animation_is_scrubbed_and_played(
    cli: Cli, tiny_run: Path, tmp_path: Path, open_page: Callable[[Path], AnimationPage]
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
def test_space_pauses(cli: Cli, tiny_run: Path, tmp_path: Path, open_page: Callable[[Path], AnimationPage]) -> None:
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
    assert not page.overflows()
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
