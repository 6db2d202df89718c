"""The page of restored photos: what is in it, and what a real browser shows."""

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, chromium, needs_browser
from conftest import Cli
from gaussian_photos import damaged, drawn, exactly, restored, save_model, to_image
from numpy.typing import NDArray
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from blurcli.base.errors import UsageError
from blurcli.data.outputs import is_output_folder
from blurcli.data.photos import Photo
from blurcli.data.png import encoded_deep
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restored import Restored
from blurcli.model.restorer import Restorer
from blurcli.visualize import restoration_page
from blurcli.visualize.restoration_page import RestorationPage

KNOWN = ("--steps", 2, "--blur", 0.5, "--noise", 4)
SHARP = drawn((40, 48))
WIDE = drawn((24, 64), seed=1)
NOTE = "Where a photo holds no information, a draw shows what the training images would make likely. It is not evidence."


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "color.safetensors")


@pytest.fixture
def weights(model_path: Path) -> tuple[str, Path]:
    return "--weights", model_path


@pytest.fixture
def photos() -> None:
    """Two photos in a folder, where the command runs."""
    Path("photos").mkdir()
    to_image(damaged(SHARP, noise=4)).save("photos/a.png")
    to_image(damaged(WIDE, noise=4)).save("photos/b.png")


def result_of(*draws: NDArray[np.float64], residual: float = 1.0) -> Restored:
    return restored(
        draws=np.stack(draws),
        blur_px=exactly(1.5),
        noise=exactly(4),
        estimated=("blur", "noise"),
        residual=residual,
        worst_residual=residual,
    )


def data_of(path: Path) -> dict[str, Any]:
    page = path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script id="data" type="application/json">(.*)</script>', page)
    found: dict[str, Any] = json.loads(data)
    return found


def picture_of(source: str) -> Image.Image:
    """A picture of a page, from its data URI or its place beside the page."""
    if not source.startswith("data:"):
        return Image.open(source)
    head, _, content = source.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def pixels_of(source: str | Path) -> NDArray[np.uint8]:
    return np.asarray(picture_of(str(source)))


# What is in it


def test_the_page_has_the_pictures_of_the_files(cli: Cli, weights: tuple[str, Path], photos: None) -> None:
    command = ("restore", "photos", *weights, *KNOWN, "--n", 3)
    for flags in (("--out", "x.html", "--mean", "--spread"), ("--out", "draws", "--spread"), ("--out", "means", "--mean")):
        done = cli(*command, "--temperature", 1, *flags)
        assert done.code == 0, done.err
    assert {path.name for path in Path().iterdir()} == {"photos", "x.html", "draws", "means"}
    assert Path("x.html").stat().st_size < 500_000
    data = data_of(Path("x.html"))
    assert data["kinds"] == ["draw-1", "draw-2", "draw-3", "mean", "spread"]
    for name, photo in zip("ab", data["photos"], strict=True):
        assert np.array_equal(pixels_of(photo["given"]), pixels_of(f"photos/{name}.png"))
        *draws, mean, spread = map(pixels_of, photo["pictures"])
        for i, draw in enumerate(draws):
            assert np.array_equal(draw, pixels_of(f"draws/{name}/{i:06d}.png"))
        assert np.array_equal(mean, pixels_of(f"means/{name}.png"))
        levels = pixels_of(f"draws/{name}-spread.png") / 256
        assert photo["white"] >= np.percentile(levels, 99.4)
        assert photo["white"] / 2 <= max(0.5, np.percentile(levels, 99.6))
        assert np.abs(spread - (levels * 255 / photo["white"]).clip(0, 255)).max() <= 0.5 + 255 / 512 / photo["white"]
        assert (photo["height"], photo["width"]) == draws[0].shape[:2]


def test_the_page_says_what_was_found_and_how(cli: Cli, weights: tuple[str, Path], photos: None) -> None:
    Path("photos/b.png").rename("photos/<script>alert(1)<.png")
    done = cli("restore", "photos", *weights, "--steps", 2, "--blur", 0.5, "--out", "x.html", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["out"] == "x.html"
    assert [one["out"] for one in json.loads(done.out)["photos"]] == ["x.html", "x.html"]
    page = re.sub("</?span>", "", Path("x.html").read_text(encoding="utf-8"))
    assert NOTE in page
    found = re.findall(r"<dt>Found</dt><dd>(.*?)</dd>", page)
    assert [re.sub(r"[\d.]+", "1", one) for one in found] == [
        "noise 1 (1 to 1) gray levels; use --noise to change it; residual 1"
    ] * 2
    for one in found:
        assert f": {one}" in done.err
    for text in (
        "one of many images that agree with the photo; not evidence",
        "--blur 0.5 --temperature 0.5 --steps 2",
        "weights ",
    ):
        assert page.count(text) == 2
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert page.count("<script") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_a_warning_is_on_the_page(tmp_path: Path) -> None:
    page = RestorationPage(tmp_path / "x.html")
    with page.opened():
        page.add("a", Photo(SHARP), result_of(SHARP, residual=3.0), RestoreOptions())
    text = re.sub("</?span>", "", (tmp_path / "x.html").read_text(encoding="utf-8"))
    assert "blur 1.5 px, noise 4 gray levels; use --blur and --noise to change it; warning: the result does not fit" in text


def test_photos_of_every_kind(cli: Cli, weights: tuple[str, Path]) -> None:
    """Gray, with transparency, and with 16 bits, of which 8 are shown; the profile is kept, EXIF data are not."""
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    color = to_image(SHARP)
    clear = color.copy()
    clear.putalpha(Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (40, 1))))
    Path("photos").mkdir()
    clear.save("photos/alpha.png")
    Path("photos/deep.png").write_bytes(encoded_deep(np.asarray(color).astype(np.uint16) * 257, {}, None, None))
    color.convert("L").save("photos/gray.png", exif=exif, icc_profile=b"a profile")
    Image.fromarray(np.asarray(color.convert("L")).astype(np.uint16) * 256).save("photos/graydeep.png")
    done = cli("restore", "photos", *weights, *KNOWN, "--out", "x.html")
    assert done.code == 0, done.err
    photos = data_of(Path("x.html"))["photos"]
    for photo, mode in zip(photos, ("RGBA", "RGB", "L", "L"), strict=True):
        given, result = picture_of(photo["given"]), picture_of(photo["pictures"][0])
        assert (given.mode, result.mode, given.size, result.size) == (mode, mode, (48, 40), (48, 40))
        assert not np.array_equal(np.asarray(given), np.asarray(result))
        if mode == "RGBA":
            assert np.array_equal(np.asarray(result)[..., 3], np.asarray(clear)[..., 3])
    assert np.array_equal(pixels_of(photos[1]["given"]), np.asarray(color))
    assert picture_of(photos[2]["given"]).info["icc_profile"] == b"a profile"
    assert all(
        b"A maker" not in base64.b64decode(source.partition(",")[2]) for source in [photos[2]["given"], *photos[2]["pictures"]]
    )
    text = Path("x.html").read_text(encoding="utf-8")
    assert text.count("shown with 8 of the 16 bits of the photo") == 2
    comment = picture_of(photos[0]["pictures"][0]).info["Comment"]
    assert comment.startswith("Restored by a generative model")
    assert "Comment" not in picture_of(photos[0]["given"]).info


def test_enlarged_photos_keep_their_own_pixels(cli: Cli, weights: tuple[str, Path], photos: None) -> None:
    assert cli("restore", "photos/a.png", *weights, *KNOWN, "--enlarge", 2, "--out", "x.html").code == 0
    (photo,) = data_of(Path("x.html"))["photos"]
    assert picture_of(photo["given"]).size == (48, 40)
    assert picture_of(photo["pictures"][0]).size == (photo["width"], photo["height"]) == (96, 80)
    page = Path("x.html").read_text(encoding="utf-8")
    assert "a pixel of the photo is shown as 2x2 equal ones" in page
    assert 'id="strength"' not in page  # the photo has too few pixels to be mixed in
    assert 'id="photo"' not in page
    assert "a, restored</title>" in page


# Large pages


def test_pictures_of_a_large_page_are_beside_it(
    cli: Cli, weights: tuple[str, Path], photos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("restore", "photos", *weights, *KNOWN, "--n", 2)
    assert cli(*command, "--out", "small.html").code == 0
    monkeypatch.setattr(restoration_page, "MOST_BYTES", 20_000)  # the first photo fits
    assert cli(*command, "--out", "my x.html").code == 0
    assert Path("my x.html").stat().st_size < 40_000
    assert "the folder my x_files, which belongs beside this page" in Path("my x.html").read_text(encoding="utf-8")
    inside, beside = (data_of(Path(name))["photos"] for name in ("small.html", "my x.html"))
    for before, after in zip(inside, beside, strict=True):
        for ours, theirs in zip([before["given"], *before["pictures"]], [after["given"], *after["pictures"]], strict=True):
            assert theirs.startswith("my%20x_files/")
            assert np.array_equal(pixels_of(ours), pixels_of(theirs.replace("%20", " ")))
    # They never become training data, and are replaced with the page.
    assert is_output_folder([path.name for path in Path("my x_files").iterdir()])
    Path("my x_files/notes.txt").write_text("mine")
    assert cli("restore", "photos/a.png", *weights, *KNOWN, "--out", "my x.html", "--n", 4).code == 0
    assert len(list(Path("my x_files").glob("*.png"))) == 5
    monkeypatch.setattr(restoration_page, "MOST_BYTES", 10_000_000)
    assert cli("restore", "photos/a.png", *weights, *KNOWN, "--out", "my x.html").code == 0
    assert [path.name for path in Path("my x_files").iterdir()] == ["notes.txt"]


def test_the_folder_goes_with_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (100, 10_000_000):
        monkeypatch.setattr(restoration_page, "MOST_BYTES", most)
        page = RestorationPage(tmp_path / "x.html")
        with page.opened():
            page.add("a", Photo(SHARP), result_of(SHARP), RestoreOptions())
            assert (
                len(list(tmp_path.glob("x_files/*.png"))) == 2
            )  # large ones are not kept in memory; old ones stay until the end
        assert (tmp_path / "x_files").exists() == (most == 100)


def test_the_text_of_many_photos_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration_page, "MOST_BYTES", 16_000)
    page = RestorationPage(tmp_path / "x.html")
    with page.opened():
        page.add("a" * 4000, Photo(SHARP[:, :8, :8]), result_of(SHARP[:, :8, :8]), RestoreOptions())
        assert not (tmp_path / "x_files").exists()
    assert (tmp_path / "x_files").exists()


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "x_files").mkdir()
    RestorationPage(tmp_path / "x.html")
    (tmp_path / "x_files" / "0001-draw-1.png").write_text("mine")
    with pytest.raises(
        UsageError, match=r"`out` .*x\.html: the pictures of a large page go to .*x_files, which has other files"
    ):
        RestorationPage(tmp_path / "x.html")


# Failures


def test_failing_photos_are_reported_and_the_others_are_on_the_page(cli: Cli, weights: tuple[str, Path], photos: None) -> None:
    Path("photos/broken.png").write_bytes(b"no picture")
    done = cli("restore", "photos", *weights, *KNOWN, "--out", "x.html")
    assert (done.code, "1 of 3 photos could not be restored" in done.err) == (1, True)
    assert len(data_of(Path("x.html"))["photos"]) == 2
    Path("x.html").unlink()
    assert cli("restore", "photos/broken.png", *weights, *KNOWN, "--out", "x.html").code == 1
    assert not Path("x.html").exists()


def test_an_interrupted_page_has_what_is_done(
    cli: Cli, weights: tuple[str, Path], photos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Restorer.__call__

    def stopped(self: Restorer, photo: Photo, *others: Any) -> Restored:
        if photo.pixels.shape[1] == 24:
            raise KeyboardInterrupt
        return whole(self, photo, *others)

    monkeypatch.setattr(Restorer, "__call__", stopped)
    assert cli("restore", "photos", *weights, *KNOWN, "--out", "x.html").code == 130
    assert len(data_of(Path("x.html"))["photos"]) == 1


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--compare",), "--compare: --out x.html is a page, which compares them; leave it out"),
        (("--strength", 0.5), "--strength 0.5: --out x.html is a page, which has a slider for it; leave it out"),
        (("--demo",), "--out x.html: with --demo it is one picture; name a .png"),
        (("--score",), "--score: takes its images from --data; leave out photos, --demo, --out and --compare"),
    ],
)
def test_what_a_page_makes_useless_is_refused(
    cli: Cli, weights: tuple[str, Path], photos: None, flags: tuple[object, ...], text: str
) -> None:
    named = () if flags[0] in ("--demo", "--score") else ("photos/a.png",)
    done = cli("restore", *named, *weights, *KNOWN, *flags, "--out", "x.html")
    assert (done.code, text in done.err) == (2, True), done.err
    assert not Path("x.html").exists()


# In a browser

GIVEN = [np.rint(damaged(one, noise=30, seed=2)).clip(0, 255) for one in (SHARP, WIDE)]
DRAWS = [[np.rint(drawn(one.shape[1:], seed=seed)).clip(0, 255) for seed in (5, 6)] for one in (SHARP, WIDE)]
SIZES = [(1280, 800, 1, False), (390, 844, 1, True), (390, 844, 3, True)]


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    with chromium() as one:
        yield one


@pytest.fixture
def page(driver: webdriver.Chrome, tmp_path: Path) -> Page:
    """Two photos with two draws each, their mean and spread."""
    pages = RestorationPage(tmp_path / "x.html")
    with pages.opened():
        for title, given, draws in zip("ab", GIVEN, DRAWS, strict=True):
            pages.add(title, Photo(given), result_of(*draws), RestoreOptions(n=2, mean=True, spread=True))
    return Page(driver, tmp_path / "x.html")


def stage_of(page: Page) -> NDArray[np.uint8]:
    """The screen's pixels of photo and result, (C, H, W), without the line of the divider."""
    hide = "document.getElementById('divider').style.opacity = arguments[0]"
    page.driver.execute_script(hide, 0)
    seen = page.seen(page.at("stage")).transpose(2, 0, 1)
    page.driver.execute_script(hide, 1)
    return seen


def levels(pixels: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def divider_of(page: Page) -> int:
    return int(page.at("divider").get_attribute("aria-valuenow") or -1)


def pressed(page: Page) -> list[str]:
    return [one.text for one in page.at("shown").find_elements(By.CSS_SELECTOR, "[aria-pressed=true]")]


def set_strength(page: Page, value: float) -> None:
    page.driver.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", page.at("strength"), value
    )


@needs_browser
@pytest.mark.parametrize(("width", "height", "ratio", "mobile"), SIZES)
def test_pixel_for_pixel(page: Page, width: int, height: int, ratio: int, mobile: bool) -> None:
    """At strength 0 the photo, at 1 the result, between them their mix as by `--strength`, on every screen."""
    page.resize(width, height, ratio, mobile)
    for number, (given, draws) in enumerate(zip(GIVEN, DRAWS, strict=True)):
        if number:
            page.press("n")
        page.press(Keys.HOME)
        kinds = {"1": draws[0], "2": draws[1], "m": np.mean(draws, 0)}
        for key, result in kinds.items():
            page.press(key)
            for strength in (0, 0.25, 1):
                set_strength(page, strength)
                seen = stage_of(page)
                assert seen.shape[1:] == (given.shape[1] * ratio, given.shape[2] * ratio)
                assert np.array_equal(seen, seen[:, ::ratio, ::ratio].repeat(ratio, 1).repeat(ratio, 2))
                wanted = given + strength * (levels(result) - given)
                assert np.abs(seen[:, ::ratio, ::ratio] - wanted).max() <= (
                    0 if strength in (0, 1) else 2
                )  # shares of 255, rounded twice
        page.press(Keys.END)
        assert np.array_equal(stage_of(page)[:, ::ratio, ::ratio], given)
        page.press("s", Keys.HOME)
        own = json.loads(page.at("data").get_property("textContent"))["photos"][number]  # type: ignore[arg-type]
        spread = levels(result_of(*draws).spread * 255 / own["white"])
        assert np.array_equal(stage_of(page)[:, ::ratio, ::ratio], np.stack([spread] * 3))
        assert page.at("scale").text.startswith(f"0\n{own['white']} gray levels or more\nThe spread: how much the draws differ")
        assert "under this model, blur and noise; relative only" in page.at("scale").text
    assert not page.overflows()
    assert page.errors() == []
    assert page.requests() <= {"file", "data"}


@needs_browser
def test_transparent_pixels_are_mixed_exactly(driver: webdriver.Chrome, tmp_path: Path) -> None:
    alpha = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (40, 1))
    given, (draw, _) = Photo(GIVEN[0], alpha=alpha), DRAWS[0]
    pages = RestorationPage(tmp_path / "x.html")
    with pages.opened():
        pages.add("a", given, result_of(draw), RestoreOptions())
    page = Page(driver, tmp_path / "x.html")
    page.resize(1280, 800)
    driver.execute_script("document.getElementById('stage').style.background = '#000'")
    page.press(Keys.HOME)
    for strength in (0, 0.5, 1):
        set_strength(page, strength)
        wanted = (given.pixels + strength * (draw - given.pixels)) * alpha / 255
        assert np.abs(stage_of(page) - wanted).max() <= 2  # rounded twice more
    page.press(Keys.END)
    assert np.abs(stage_of(page) - given.pixels * alpha / 255).max() <= 1


@needs_browser
def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.resize(1280, 800)
    assert (divider_of(page), pressed(page), page.at("right").text) == (50, ["mean"], "mean")
    page.press(Keys.ARROW_RIGHT)
    assert divider_of(page) == 52
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert divider_of(page) == 48
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    assert divider_of(page) == 58
    seen = stage_of(page)
    edge = round(0.58 * 48)
    assert np.array_equal(seen[..., : edge - 1], GIVEN[0][..., : edge - 1])
    assert np.array_equal(seen[..., edge + 1 :], levels(np.mean(DRAWS[0], 0))[..., edge + 1 :])
    page.press(Keys.HOME, Keys.ARROW_LEFT)
    assert divider_of(page) == 0
    page.press(Keys.END, Keys.ARROW_RIGHT)
    assert divider_of(page) == 100
    page.press("2")
    assert pressed(page) == ["draw 2"]
    page.press("3")  # there is no third draw
    assert pressed(page) == ["draw 2"]
    page.press("[", "[", "]")
    assert (page.at("share").text, page.at("right").text) == ("0.95", "draw 2, strength 0.95")
    page.press("s", "[")
    assert (pressed(page), page.at("share").text, page.at("strength").is_enabled()) == (["spread"], "0.95", False)
    page.press("m")
    assert (pressed(page), page.at("right").text) == (["mean"], "mean, strength 0.95")
    for key, title in (("n", "b"), ("n", "a"), ("p", "b"), ("P", "a")):
        page.press(key)
        assert page.driver.find_element(By.CSS_SELECTOR, "article:not([hidden]) h2").text == title
        assert page.driver.execute_script("return document.getElementById('photo').value") == title
    page.press("f")
    assert page.at("stage").size["width"] > 400
    page.press("f")
    assert page.at("stage").size["width"] == 48
    # The arrows belong to the strength while it has the focus, and letters to the list of photos.
    page.at("strength").click()
    where, share = divider_of(page), page.at("share").text
    page.press(Keys.ARROW_LEFT)
    assert (divider_of(page), page.at("share").text != share) == (where, True)
    page.driver.execute_script("document.getElementById('photo').focus()")
    page.press("1")
    assert pressed(page) == ["mean"]
    controls = page.driver.find_elements(By.CSS_SELECTOR, "button, input, select, [role=slider], [tabindex='0']")
    assert [one.get_attribute("outerHTML") for one in controls if not one.accessible_name] == []
    assert {one.accessible_name for one in controls} >= {"photo", "previous photo", "next photo", "strength", "draw 1"}
    assert page.errors() == []


@needs_browser
def test_the_mouse_moves_the_divider(page: Page) -> None:
    page.resize(1280, 800)
    stage, knob = page.at("stage"), page.at("divider")
    ActionChains(page.driver).drag_and_drop_by_offset(knob, 12, 5).perform()
    assert divider_of(page) == 75
    ActionChains(page.driver).move_to_element_with_offset(stage, -22, 0).click().perform()
    assert divider_of(page) == 4
    ActionChains(page.driver).move_to_element_with_offset(stage, 22, 0).perform()  # without a button
    assert divider_of(page) == 4
    page.at("next").click()
    buttons = page.at("shown").find_elements(By.TAG_NAME, "button")
    buttons[1].click()
    assert (pressed(page), page.at("right").text) == (["draw 2"], "draw 2")


@needs_browser
def test_a_finger_moves_the_divider_by_its_knob_and_scrolls_elsewhere(driver: webdriver.Chrome, tmp_path: Path) -> None:
    large = np.tile(GIVEN[1], (1, 50, 20)) / 2
    pages = RestorationPage(tmp_path / "x.html")
    with pages.opened():
        pages.add("large", Photo(large), result_of(127 - large), RestoreOptions())
    page = Page(driver, tmp_path / "x.html")
    page.resize(390, 844, 3, mobile=True)
    page.driver.execute_script("open(0)")
    scrolled = "return document.getElementById('view').scrollLeft"
    box = "return arguments[0].getBoundingClientRect().toJSON()"
    assert not page.overflows()
    before = driver.execute_script(scrolled)
    assert before > 300  # the divider is in sight
    knob = driver.execute_script(box, page.at("divider"))
    x, y = knob["x"] + knob["width"] / 2, knob["y"] + 200
    page.touch((x, y), (x - 50, y), (x - 100, y + 10))
    assert divider_of(page) == round(100 * (640 - 100) / 1280)
    assert driver.execute_script(scrolled) == before
    # Beside the knob a finger scrolls, and a tap moves the divider.
    page.touch((x, y + 40), (x - 50, y + 40), (x - 100, y + 40))
    page.wait(lambda: driver.execute_script(scrolled) > before + 50)
    assert divider_of(page) == round(100 * (640 - 100) / 1280)
    still = (
        "const v = document.getElementById('view'), at = v.scrollLeft; setTimeout(() => arguments[0](at === v.scrollLeft), 200)"
    )
    page.wait(lambda: driver.execute_async_script(still))
    stage = driver.execute_script(box, page.at("stage"))
    page.touch((200, y + 40))
    page.wait(lambda: divider_of(page) == round(100 * (200 - stage["x"]) / 1280))
    # The knob stays in sight.
    driver.execute_script("document.getElementById('view').scrollTop = 300")
    seen = page.seen(page.at("view"))
    (rows,) = np.nonzero((seen == 255).all(-1).sum(1) > 20)  # the line alone has 6 white pixels in a row
    assert len(rows) > 60
    assert abs(rows.mean() / len(seen) - 0.5) < 0.02
    page.press("f")
    assert page.at("stage").size["width"] <= 390
    assert page.errors() == []


@needs_browser
def test_pictures_beside_the_page_are_shown(driver: webdriver.Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration_page, "MOST_BYTES", 100)
    name = os.fsdecode(b"my x?#\xff.html")  # no valid UTF-8
    pages = RestorationPage(tmp_path / name)
    with pages.opened():
        pages.add("a", Photo(GIVEN[0]), result_of(DRAWS[0][0]), RestoreOptions())
    page = Page(driver, tmp_path / name)
    page.resize(1280, 800)
    page.press(Keys.HOME)
    assert np.array_equal(stage_of(page), DRAWS[0][0])
    assert not page.at("shown").is_displayed()  # there is one result
    assert page.errors() == []


@needs_browser
def test_an_enlarged_photo_is_shown_by_repeated_pixels(driver: webdriver.Chrome, tmp_path: Path) -> None:
    large = DRAWS[0][0].repeat(2, 1).repeat(2, 2) // 2
    pages = RestorationPage(tmp_path / "x.html")
    with pages.opened():
        pages.add("a", Photo(GIVEN[0]), result_of(large), RestoreOptions(enlarge=2))
    page = Page(driver, tmp_path / "x.html")
    page.resize(1280, 800)
    page.press(Keys.HOME, "[")
    assert np.array_equal(stage_of(page), large)
    page.press(Keys.END)
    assert np.array_equal(stage_of(page), GIVEN[0].repeat(2, 1).repeat(2, 2))
    assert page.at("left").text == "photo as given, pixels repeated 2 times"
    assert page.errors() == []
