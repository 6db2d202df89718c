"""The report of a run: one page, whatever is in the run folder."""

import base64
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, QUIET, needs_browser
from conftest import TINY, Cli, settings
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

import blurcli as bd
from blurcli.base.runs import Run
from blurcli.config import from_json, load_config, parse_overrides
from blurcli.config.repeat import nearest_preset, without_folder
from blurcli.data import ReadOptions, is_available, torchvision_datasets
from blurcli.data.dataset import Request
from blurcli.data.packed_cache import pack
from blurcli.model.weights import Classes, load_weights, save_weights
from blurcli.visualize import markup
from blurcli.visualize.previews import read_preview
from blurcli.visualize.report_pictures import Subject, preview_part, samples_of

SECTIONS = ["training", "samples", "previews", "process", "loss", "scores", "spectrum", "errors", "repeat"]
VOID = {"meta", "link", "img", "source", "br", "input"}
TAGS = (
    "html head title style body header main nav section h1 h2 h3 p a dl div dt dd figure figcaption picture table thead tbody"
)
TAGS += " tr th td pre code details summary script"
EVIL = "<script>alert(1)<"
FOLDER = "secret/place"


class Page(HTMLParser):
    """A page, taken apart: elements with their attributes, the text of every section, and unbalanced tags."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._open: list[str] = []
        self._section = ""
        self.feed(content)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section and data.strip():
            self.sections[self._section] = self.sections.get(self._section, "") + data + "\n"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def addresses(self) -> list[str]:
        """All that the page names to be loaded or visited."""
        names = ("src", "srcset", "href", "action", "data", "poster")
        return [str(attributes[name]) for _, attributes in self.elements for name in names if name in attributes]


def make(cli: Cli, run: Path, *more: object) -> tuple[Page, str, list[str]]:
    """The report of a run as a page, its text, and what it lacks."""
    done = cli("report", run, "--out", "report.html", "--json", *more)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    content = Path(result["out"]).read_text(encoding="utf-8")
    assert result["bytes"] == len(content.encode()) < 5_000_000
    return Page(content), content, result["missing"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots, which take most of the time, are left empty."""
    monkeypatch.setattr(markup, "written", lambda write, suffix: b"<svg/>")


def check_isolated(page: Page, content: str) -> None:
    """Nothing is loaded, and there is no script but the template's."""
    assert all(re.match(r"data:(image/\w+(\+xml)?;base64,|,?$)|#\w+$", address) for address in page.addresses())
    assert not re.search(r"https?://|@import|url\(", content)
    assert len(page.all("script")) == 1
    assert not page.all("script")[0]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on") or name == "style"]
    assert {tag for tag, _ in page.elements} <= VOID | set(TAGS.split())
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def embedded(content: str) -> bytes:
    """All pictures of a page, decoded, one after the other."""
    return b"\n".join(base64.b64decode(found) for found in re.findall(r"base64,([A-Za-z0-9+/=]+)", content))


def record_more(run: Path) -> None:
    """Scores of two steps, and losses by time and frequency band."""
    score = {"n": 12, "features": "pixels-8x8", "reference": "shapes train", "reference_hash": "abcdef0123", "size": [8, 8]}
    score |= {"sampler": "abm", "steps": 2, "final": "denoised", "split": "train", "hardware": "a machine"}
    scores = [
        score | {"step": step, "seed": seed, "weights_sha256": str(step), "fd": 3.25 - step + seed / 100, "kd": 0.5}
        for step in (1, 2)
        for seed in (0, 1)
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in scores))
    health = [{"step": step, "times": [0, 1], "bands": ["mean", "16-8 px"], "loss": [[1, 2], [3, 4]]} for step in (1, 2)]
    (run / "health.jsonl").write_text("".join(json.dumps(one) + "\n" for one in health))


def test_a_whole_report(cli: Cli, tiny_run: Path) -> None:
    record_more(tiny_run)
    page, content, missing = make(cli, tiny_run)
    assert missing == []
    assert list(page.sections) == SECTIONS
    assert {f"#{name}" for name in SECTIONS} == {str(one["href"]) for one in page.all("a")}
    check_isolated(page, content)
    assert all(one.get("alt") for one in page.all("img"))

    facts = page.sections["training"]
    for line in (
        "tiny",
        "shapes-blur, 13 keys changed",
        "blur schedule noise-ratio, r = 0.5 px: blur of 0.209, 0.5, 1.2, 74.2 px at t = 0.25, 0.5, 0.75, 1",
        "shapes, 8x8 color, flipped at random",
        "number of images\n64\n",
        "steps\n3\n",
        "batch size\n4\n",
        "optimizer\nMuon, learning rate 0.0015, EMA decay 0.99\n",
        "images seen\n12, 0.188 times each\n",
        "cpu (",
    ):
        assert line in facts + content
    assert re.search(r"precision\n(bf16|fp32)\n", facts)
    assert re.search(r"training time\n\d+ s, without previews", facts)
    assert "images 0 to 3 of seed 0, sampler abm, 2 steps" in page.sections["samples"]
    assert "1 of 1 previews" in page.sections["previews"]
    scores = page.sections["scores"]
    assert "FD in pixels-8x8: 12 images, reference shapes train (abcdef01)" in scores
    assert "\n+-\n" in scores
    assert "\n2\n1.2550\n0.00707\nabm\n2\ndenoised\n0, 1\n" in scores  # the better one first: seeds and mean
    assert "hardware\na machine\n" in scores
    assert len(page.all("table")) == 2
    assert scores.count("over training") == 1
    assert page.sections["loss"].split("\n")[1:3] == ["Loss over training", "Loss by frequency band"]
    assert "64 images of shapes train; 1 is no better" in page.sections["errors"]
    assert "preview_images: 4  # images per preview" in page.sections["repeat"]

    # Every kind of picture, and each of the size that it claims.
    kinds = re.findall(r"data:(image/[\w+]+);base64", content)
    assert {"image/webp", "image/gif", "image/svg+xml"} == set(kinds)
    rules = re.findall(r"^\.w(\d+)\{width:(\d+)px\}$", content, re.MULTILINE)
    assert {width for width, _ in rules} == {str(one["width"]) for one in page.all("img") if "width" in one}
    assert "@media(min-width:68px){.w17{width:34px}}" in content


def test_pictures_are_of_their_step(tiny_run: Path) -> None:
    """The samples are those of the newest preview only if it is of the weights' step, and every preview has its own caption."""
    model = bd.load(tiny_run)
    (own,) = [preview.cells((8, 8)) for preview in [read_preview(3, tiny_run / "samples" / "step-00000003.png")] if preview]
    shades = {1: 10, 2: 130, 5: 250}
    for step, shade in shades.items():
        Image.new("RGB", (17, 17), (shade,) * 3).save(tiny_run / "samples" / f"step-{step:08d}.png")

    def shown(step: int) -> np.ndarray:
        return samples_of(Subject("tiny", model.run, step, model.pipeline, None), lambda title, total: nullcontext(print))

    assert shown(5).min() == 250
    made = shown(3)
    assert np.array_equal(made[:4], own)
    assert len(made) == 64  # of the weights, and not from a preview
    (tiny_run / "samples" / "step-00000005.png").unlink()
    assert np.array_equal(shown(3), own)
    strip = preview_part(Run(tiny_run), (8, 8))[0].content
    assert [one.caption for one in strip] == ["step 1", "step 2", "step 3"]
    for step, one in zip((1, 2), strip, strict=False):
        with Image.open(io.BytesIO(one.content)) as picture:
            assert np.asarray(picture.convert("L")).mean() == shades[step]


@pytest.mark.usefixtures("quick")
def test_the_command_repeats_the_training(cli: Cli, tiny_run: Path) -> None:
    page, _, _ = make(cli, tiny_run, "--no-animation")
    lines = page.sections["repeat"].split("Train again\n")[1].split("Sample\n")[0]
    command = shlex.split(lines.replace("\\\n", " "))
    assert command[:4] == ["blurdiff", "train", "--preset", "shapes-blur"]
    assert command[-2:] == ["--run", "runs/tiny"]
    repeated = from_json(cli(*command[1:], "--dry-run", "--json").out, "here")
    assert repeated == load_config(str(tiny_run / "config.yaml"))
    assert "process" not in page.sections
    assert not re.search("image/gif", str(page.all("img")))


def test_the_nearest_preset() -> None:
    for name, assignments in (
        ("cifar10-noblur", ["train.batch_size=64", "optim.lr=1e-05"]),
        ("shapes-heat", []),
        ("shapes-classes", ["data.value_range=[0, 4095]", "train.micro_batch=auto"]),
    ):
        config = load_config(name, parse_overrides(assignments))
        found = nearest_preset(config)
        assert found is not None
        assert load_config(found[0], parse_overrides(found[1])) == config
        assert len(found[1]) <= len(assignments)
    many = [f"model.{key}" for key in ("base_channels=64", "dropout=0.3", "blocks_per_level=3", "head_channels=8")]
    many += [*TINY, "optim.lr=1e-5", "optim.beta2=0.9", "optim.grad_clip=2"]
    assert nearest_preset(load_config("shapes-blur", parse_overrides(many))) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [("cifar10", "cifar10"), ("/home/me/cats/", "cats"), (r"C:\Users\me\cats.zip", "cats.zip"), ("a b/c d", "c d"), ("/", "")],
)
def test_the_location_of_images_is_left_out(path: str, expected: str) -> None:
    assert without_folder(path) == expected


def test_only_images_at_hand_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report downloads nothing."""
    monkeypatch.setenv("BLURDIFF_CACHE", str(tmp_path / "cache"))
    assert not any(is_available(source, "train", (32, 32), 3) for source in ("cifar10", "celeba", str(tmp_path / "absent")))
    assert all(is_available(source, "train", (32, 32), 3) for source in ("shapes", str(tmp_path)))
    request = Request("cifar10", "train", (3, 32, 32), ReadOptions(), None, lambda done, total: None)
    pack([np.zeros((2, 3, 32, 32), np.uint8)], request.shape, lambda: torchvision_datasets._fingerprint(request))
    assert is_available("cifar10", "train", (32, 32), 3)
    assert not is_available("cifar10", "test", (32, 32), 3)


@pytest.fixture
def hostile_run(cli: Cli, tmp_path: Path) -> Path:
    """A run on images in a folder that nobody else should know of, with hostile names in all places."""
    run, source = tmp_path / f"{EVIL} & 'x' \"y\" $\\frac{{\u202e\n{{{{script}}}}", tmp_path / FOLDER / f"{EVIL}img onerror=1"
    for label in ("a", f"{EVIL}b"):
        (source / label).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(source / label / f"{i}.png")
    train = ("train", "--preset", "shapes-classes", "--data", source, "--run", run)
    done = cli(*train, *settings("train.steps=2", "data.shapes_objects=1", "data.classes=2"))
    assert done.code == 0, done.err
    path = run / "weights" / "step-00000002.safetensors"
    weights = load_weights(path)
    save_weights(type(weights)(weights.config, 2, weights.network, weights.data, path, Classes((f"{EVIL}b", "\ud800"), (5, 5))))
    common = {
        "reference": str(source),
        "reference_hash": EVIL,
        "n": 9,
        "features": f"../{EVIL}$\\bad$",
        "size": [8, 8],
        "seed": 0,
    }
    bands = {"spectrum": [1.0] * 12, "reference_spectrum": [2.0] * 12}
    scores = [
        common
        | {"step": step, "steps": 2, "sampler": f"{EVIL}$x^{{$", "fd": step, "weights_sha256": f"{EVIL}{step}"}
        | {"weights": str(path), "hardware": EVIL, "versions": {EVIL: EVIL}, "name": EVIL, "label": "\ud800"}
        | bands
        for step in (1, 2)
    ]
    scores += [common | {"samples": f"/{FOLDER}/shots", "fd": 3.0}]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in scores))
    health = [{"step": step, "times": [0.5], "bands": [EVIL, "$"], "loss": [[1, 2]]} for step in (1, 2)]
    (run / "health.jsonl").write_text("".join(json.dumps(one) + "\n" for one in health))
    with (run / "sessions.jsonl").open("a") as file:
        file.write(json.dumps({"hardware": EVIL, "precision": EVIL, "device": EVIL, "versions": {EVIL: EVIL}}) + "\n")
    return run


def test_hostile_names_and_a_secret_folder(cli: Cli, hostile_run: Path) -> None:
    page, content, missing = make(cli, hostile_run)
    assert missing == []
    check_isolated(page, content)
    assert EVIL not in content
    assert "\u202e" not in content
    assert "secret" not in content
    assert b"secret" not in embedded(content)
    title = page.sections["repeat"]
    assert "\\u202e\\n{{script}}" in title
    assert f"{EVIL}img onerror=1" in page.sections["training"]
    assert f"--data 'path/to/{EVIL}img onerror=1'" in title
    assert f"source: path/to/{EVIL}img onerror=1" in title
    assert "classes\n" + f"{EVIL}b, \\ud800" in page.sections["training"]
    assert "shots" in page.sections["scores"]


DAMAGE = '{"step": 2, "lo\n[1]\n3\n"x"\nnull\n{"step": "x", "loss": 1}\n{"step": 1, "loss": NaN}\n{"step": 1e999, "loss": []}\n'


@pytest.mark.usefixtures("quick")
def test_missing_parts_are_named(cli: Cli, tiny_run: Path) -> None:
    shutil.rmtree(tiny_run / "samples")
    for name in ("metrics", "sessions"):
        (tiny_run / f"{name}.jsonl").unlink()
    page, _, missing = make(cli, tiny_run)
    assert [line.split(":")[0].split(";")[0] for line in missing] == ["No previews", "No loss", "No scores yet"]
    assert "No scores yet: blurdiff fid measures them." in page.sections["scores"]  # the page names no folder
    assert "images 0 to 63 of seed 0" in page.sections["samples"]  # made for the report
    assert "Of the 64 samples above" in page.sections["spectrum"]
    for name in ("device", "number of images", "training time"):
        assert f"{name}\nnot recorded\n" in page.sections["training"]
    assert list(page.sections) == SECTIONS

    # Damaged records are like missing ones, beside a line that is whole.
    huge = '{"step": 2, "loss": 1' + "0" * 400 + "}\n"
    for name in ("metrics", "sessions", "health", "evaluations"):
        (tiny_run / f"{name}.jsonl").write_text(DAMAGE + huge)
    (tiny_run / "samples").mkdir()
    (tiny_run / "samples" / "step-00000003.png").write_bytes(b"no image")
    (tiny_run / "samples" / "step-x.png").write_bytes(b"no image")
    _, _, missing = make(cli, tiny_run, "--no-animation")
    assert [line.split(":")[0].split(";")[0] for line in missing] == ["No previews", "No loss", "No scores yet"]
    (tiny_run / "metrics.jsonl").write_text(DAMAGE + '{"step": 3, "loss": 0.5, "images_per_sec": 0.5}\n')
    page, _, missing = make(cli, tiny_run, "--no-animation")
    assert "24 s, without previews" in page.sections["training"]
    assert missing[1] == "No loss by time and frequency band yet: train.health_every_steps sets its interval."


@pytest.mark.usefixtures("quick")
def test_a_stopped_training_and_absent_images(cli: Cli, tmp_path: Path, photos: Path) -> None:
    train = ("train", "--preset", "shapes-blur", "--data", photos, "--run", "r", *settings("train.steps=2"))
    assert cli(*train).code == 0
    path = tmp_path / "r" / "weights" / "step-00000002.safetensors"
    weights = load_weights(path)
    longer = weights.config.model_copy(update={"train": weights.config.train.model_copy(update={"steps": 50})})
    save_weights(type(weights)(longer, 2, weights.network, weights.data, path, None))
    moved = photos.rename(tmp_path / "moved")
    page, content, missing = make(cli, tmp_path / "r", "--no-animation")
    assert "2 of 50: stopped before its end, or still training" in page.sections["training"]
    assert "name them with: blurdiff report RUN --data path/to/images" in missing[-1]
    assert str(tmp_path) not in content
    _, _, missing = make(cli, tmp_path / "r", "--no-animation", "--data", moved, "--n", 3)
    assert not any("map of errors" in line for line in missing)


@pytest.mark.usefixtures("quick")
def test_weights_alone(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    weights = shutil.copy(tiny_run / "weights" / "step-00000003.safetensors", tmp_path / "mine.safetensors")
    page, _, missing = make(cli, Path(weights), "--no-animation")
    assert missing == ["A weights file has no record of its training; name the run folder instead."] * 3
    assert "blurdiff sample --weights mine.safetensors" in page.sections["repeat"]
    assert cli("report", weights, "--no-animation").out == "report.html\n"


@pytest.mark.usefixtures("quick")
def test_an_objective_without_estimates(cli: Cli, tmp_path: Path) -> None:
    preset = ("--preset", "shapes-heat", "--set", "objective=residual", "--set", "process.levels=3", "--set", "sample.steps=3")
    keys = [one for one in TINY if not one.startswith("sample.")]
    assert cli("train", *preset, "--run", "r", *(part for one in (*keys, "train.steps=1") for part in ("--set", one))).code == 0
    page, _, missing = make(cli, tmp_path / "r")
    assert any("it has no estimate of the clean image" in line for line in missing)
    assert "inverse heat dissipation; 3 blur levels, log-spaced from 0.5 to 24 px; noise of 0.01" in page.sections["training"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["absent"], 2, "absent: no such run folder"),
        (["empty"], 2, "empty: has no weights yet"),
        (["absent.safetensors"], 2, "absent.safetensors: no such file"),
        (["file.txt"], 1, "file.txt: not a readable safetensors file"),
        (["RUN", "--out", "r.pdf"], 2, "--out r.pdf: a report is a page; end the name in .html"),
        (["RUN", "--out", "file.txt/r.html"], 1, "cannot be written"),
        (["RUN", "--data", "nowhere/images"], 2, "no such folder"),
        (["RUN", "--n", "65"], 2, "--n 65: shapes train has 64 images"),
    ],
)
def test_refusals(cli: Cli, tiny_run: Path, tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("precious")
    done = cli("report", *[str(tiny_run) if one == "RUN" else one for one in arguments])
    assert done.code == code
    assert text in " ".join(done.err.split())
    assert done.out == ""
    assert (tmp_path / "file.txt").read_text() == "precious"
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.usefixtures("quick")
def test_many_large_previews_are_thinned(cli: Cli, tiny_run: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8 * 65 - 1, 8 * 65 - 1, 3), np.uint8)
    for step in range(1, 31):
        Image.fromarray(np.roll(noise, step, 0)).save(tiny_run / "samples" / f"step-{step:08d}.png")
    page, content, _ = make(cli, tiny_run, "--no-animation")
    assert "24 of 30 previews, recompressed with loss" in page.sections["previews"]
    steps = [int(found) for found in re.findall(r"^step (\d+)$", page.sections["previews"], re.MULTILINE)]
    assert len(steps) == 24
    assert (steps[0], steps[-1]) == (1, 30)
    assert len(content) < 2_500_000


# in a browser


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start here: {(error.msg or '').splitlines()[:1]}")
    yield driver
    driver.quit()


def shown_steps(browser: webdriver.Chrome) -> list[str]:
    """The steps of the previews that are visible."""
    found = browser.find_elements(By.CSS_SELECTOR, "#strip figure")
    return [str(one.find_element(By.TAG_NAME, "img").get_attribute("alt")) for one in found if one.is_displayed()]


def device(browser: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@needs_browser
def test_the_page_in_a_browser(cli: Cli, tiny_run: Path, tmp_path: Path, browser: webdriver.Chrome) -> None:
    record_more(tiny_run)
    for step in (1, 2):
        shutil.copy(tiny_run / "samples" / "step-00000003.png", tiny_run / "samples" / f"step-{step:08d}.png")
    make(cli, tiny_run)
    address = (tmp_path / "report.html").as_uri()
    device(browser, 1280)
    browser.get(address)

    # The slider: from the newest preview to earlier ones, by keyboard.
    slider = browser.find_element(By.ID, "step")
    assert shown_steps(browser) == ["samples after 3 steps"]
    slider.send_keys(Keys.ARROW_LEFT)
    assert shown_steps(browser) == ["samples after 2 steps"]
    assert browser.find_element(By.TAG_NAME, "output").text == "step 2"
    assert slider.get_attribute("aria-valuetext") == "step 2"
    slider.send_keys(Keys.HOME)
    assert shown_steps(browser) == ["samples after 1 steps"]
    assert browser.execute_script("return document.getElementById('previews').contains(document.getElementById('step'))")

    # All pictures load, pixels stay whole, and only scrolling regions are wider than the screen.
    check = """
        const images = [...document.images].filter((one) => one.offsetWidth);
        const outside = [...document.querySelectorAll("body *")].filter((one) =>
            one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll"));
        return [images.every((one) => one.complete && one.naturalWidth > 0),
                images.filter((one) => one.matches(".px")).map((one) => one.width / one.naturalWidth),
                document.documentElement.scrollWidth - document.documentElement.clientWidth, outside.length];
    """
    for width in (1280, 360, 320):
        device(browser, width)
        WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(check)[0])  # loaded
        _, scales, beyond, outside = browser.execute_script(check)
        assert scales
        assert all(scale == int(scale) >= 1 for scale in scales)
        assert (beyond, outside) == (0, 0)
    schemes = [
        json.loads(line["message"])["message"]["params"]["request"]["url"].split(":")[0]
        for line in browser.get_log("performance")  # type: ignore[no-untyped-call]
        if json.loads(line["message"])["message"]["method"] == "Network.requestWillBeSent"
    ]
    assert set(schemes) <= {"file", "data"}
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]

    # Dark, and without scripts: all previews side by side.
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    color = "return getComputedStyle(document.body).color"
    assert min(map(int, re.findall(r"\d+", browser.execute_script(color))[:3])) > 200
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(address)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#strip figure:not([hidden])")) == 3
    assert not browser.find_elements(By.ID, "step")


@needs_browser
@pytest.mark.usefixtures("quick")
def test_hostile_names_in_a_browser(cli: Cli, hostile_run: Path, tmp_path: Path, browser: webdriver.Chrome) -> None:
    make(cli, hostile_run, "--no-animation")
    browser.get((tmp_path / "report.html").as_uri())
    assert "<script>alert(1)<" in browser.find_element(By.TAG_NAME, "h1").text
    assert browser.execute_script("return document.scripts.length") == 1
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]
