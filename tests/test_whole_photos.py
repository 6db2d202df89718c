"""Photos at their own size: what is read of them, and that they are written as they came."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gaussian_photos import encoded
from PIL import Image, ImageCms

from blurcli.base.errors import UsageError, UserError
from blurcli.data.images import UnreadableError
from blurcli.data.photos import Photo, from_picture, read_kernel, read_mask, read_photo

random = np.random.default_rng(0)
COLORS = random.integers(0, 256, (8, 12, 3), np.uint8)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKER, EXIF_IFD, TAKEN = 0x0112, 0x010F, 0x8769, 0x9003


def photo_of(image: Image.Image, form: str = "PNG", **options: Any) -> Photo:
    return read_photo(encoded(image, form, **options), "x")


def photo_of_values(value: int, path: Path) -> Photo:
    Image.fromarray(np.full((8, 8), value, np.int32)).save(path)
    return read_photo(path.read_bytes(), path.name)


def saved(photo: Photo, path: Path) -> Image.Image:
    photo.save(path)
    with Image.open(path) as image:
        image.load()
        return image


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER] = orientation, "A maker"
    exif.get_ifd(EXIF_IFD)[TAKEN] = "2026:01:02 03:04:05"
    stored = Image.Exif()
    stored.load(exif.tobytes())  # a TIFF takes only what is there as bytes
    return stored


@pytest.mark.parametrize("suffix", ["png", "PNG", "tif", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str, channels: int) -> None:
    image = Image.fromarray(COLORS if channels == 3 else COLORS[..., 0])
    photo = photo_of(image)
    assert photo.pixels.shape == (channels, 8, 12)
    back = saved(photo, tmp_path / f"x.{suffix}")
    assert back.mode == image.mode
    assert np.array_equal(np.asarray(back), np.asarray(image))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_lossy_formats_are_good(tmp_path: Path, suffix: str) -> None:
    smooth = Image.linear_gradient("L").resize((32, 16)).convert("RGB")
    back = saved(photo_of(smooth), tmp_path / f"x.{suffix}")
    assert back.format == ("WEBP" if suffix == "webp" else "JPEG")
    assert np.abs(np.asarray(back).astype(int) - np.asarray(smooth)).mean() < 1.5


def test_values_are_rounded_and_clipped(tmp_path: Path) -> None:
    pixels = np.array([[[-3.0, 0.4, 0.6, 254.6, 300.0]]])
    back = saved(Photo(np.ones((1, 1, 5))).with_pixels(pixels), tmp_path / "x.png")
    assert np.asarray(back).tolist() == [[0, 0, 1, 255, 255]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_go_in_and_out(tmp_path: Path, suffix: str) -> None:
    values = np.arange(0, 65536, 16, np.uint16).reshape(64, 64)
    values[-1, -1] = 65535
    photo = photo_of(Image.fromarray(values), "PNG" if suffix == "png" else "TIFF", icc_profile=PROFILE)
    assert photo.deep
    assert (photo.pixels.min(), photo.pixels.max()) == (0, 255)
    back = saved(photo, tmp_path / f"x.{suffix}")
    assert np.array_equal(np.asarray(back), values)
    assert back.info["icc_profile"] == PROFILE
    assert photo.least_noise == pytest.approx(photo_of(Image.fromarray(COLORS)).least_noise / 257)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_sixteen_bits_do_not_fit_everywhere(tmp_path: Path, suffix: str) -> None:
    photo = photo_of(Image.fromarray(np.zeros((8, 8), np.uint16)))
    for act in (photo.check_fits, photo.save):
        with pytest.raises(UsageError, match=r"`out` .*x\.\w+: .* has 8 bits, and the photo has 16; write a .png or .tif"):
            act(tmp_path / f"x.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_photos_are_upright_exactly_once(tmp_path: Path, orientation: int, form: str) -> None:
    image = Image.new("L", (16, 8))
    image.paste(255, (0, 0, 8, 4))
    image = Image.merge("RGB", [image, image, Image.new("L", image.size, 9)])
    content = encoded(image, form, exif=exif_of(orientation))
    photo = read_photo(content, "x")
    height, width = (8, 16) if orientation < 5 else (16, 8)
    assert photo.pixels.shape == (3, height, width)
    bright = tuple(bool(corner > 128) for corner in photo.pixels[0, [0, 0, -1, -1], [0, -1, 0, -1]])
    corner = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}[orientation]
    assert bright == tuple(i == corner for i in range(4))
    for suffix in ("png", "jpg", "tif", "webp"):
        back = saved(photo, tmp_path / f"x.{suffix}")
        assert back.size == (width, height)
        exif = back.getexif()
        assert (exif[ORIENTATION], exif[MAKER]) == (1, "A maker")
        assert exif.get_ifd(EXIF_IFD)[TAKEN] == "2026:01:02 03:04:05"
        again = read_photo((tmp_path / f"x.{suffix}").read_bytes(), "x")
        assert again.pixels.shape == photo.pixels.shape
        if suffix in ("png", "tif"):
            assert np.array_equal(again.pixels, photo.pixels)


def test_a_picture_in_memory_is_left_alone() -> None:
    image = Image.open(io.BytesIO(encoded(Image.fromarray(COLORS), exif=exif_of(6))))
    assert from_picture(image).pixels.shape == (3, 12, 8)
    assert image.size == (12, 8)
    assert image.getexif()[ORIENTATION] == 6
    assert from_picture(image).pixels.shape == (3, 12, 8)


def test_how_a_tiff_was_stored_is_not_kept(tmp_path: Path) -> None:
    photo = photo_of(Image.fromarray(COLORS), "TIFF", compression="tiff_lzw", tiffinfo={317: 2, 270: "a view", 271: "A maker"})
    stored = dict(saved(photo, tmp_path / "x.tif").getexif())
    assert (stored[270], stored[271]) == ("a view", "A maker")
    assert 317 not in stored
    for suffix in ("png", "jpg"):
        assert not {256, 258, 259, 273, 279, 317} & set(saved(photo, tmp_path / f"x.{suffix}").getexif())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_matter() -> None:
    photo = photo_of(Image.fromarray(COLORS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(photo.pixels.transpose(1, 2, 0), COLORS)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_color_profiles_are_kept(tmp_path: Path, suffix: str, mode: str) -> None:
    photo = photo_of(Image.fromarray(COLORS).convert(mode), icc_profile=PROFILE)
    assert saved(photo, tmp_path / f"x.{suffix}").info["icc_profile"] == PROFILE


def test_a_profile_of_other_colors_is_not_kept(tmp_path: Path) -> None:
    photo = photo_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", icc_profile=PROFILE)
    assert np.abs(photo.pixels[:, 0, 0] - [255, 0, 0]).max() <= 4
    assert "icc_profile" not in saved(photo, tmp_path / "x.png").info


def test_palettes_and_single_bits() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert photo_of(palette).pixels[:, 0, 0].tolist() == [10, 20, 30]
    bits = photo_of(Image.new("1", (8, 8), 1))
    assert (bits.pixels.shape, bits.pixels.max()) == ((1, 8, 8), 255)
    assert not bits.unclipped.any()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_carried_through(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLORS).convert(mode)
    alpha = random.integers(0, 256, (8, 12)).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    photo = photo_of(image)
    assert len(photo.pixels) == (3 if mode == "RGBA" else 1)
    for suffix in ("png", "tif"):
        back = saved(photo, tmp_path / f"x.{suffix}")
        assert back.mode == mode
        assert np.array_equal(np.asarray(back), np.asarray(image))
    larger = photo.with_pixels(photo.pixels.repeat(3, 1).repeat(3, 2)).picture()
    assert np.array_equal(np.asarray(larger.getchannel("A")), np.asarray(Image.fromarray(alpha).resize((36, 24), 3)))
    for act in (photo.check_fits, photo.save):
        with pytest.raises(UsageError, match=r"`out` .*x.jpg: JPEG has no transparency, and the photo has; write a .png"):
            act(tmp_path / "x.jpg")
    assert not (tmp_path / "x.jpg").exists()


def test_one_transparent_gray_level() -> None:
    photo = photo_of(Image.fromarray(COLORS[..., 0]), transparency=int(COLORS[0, 0, 0]))
    assert np.array_equal(photo.pixels[0], COLORS[..., 0])
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha > 0, COLORS[..., 0] != COLORS[0, 0, 0])


def test_output_is_marked(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "webp", "tif"):
        for exif in ({}, {"exif": exif_of(1)}):
            photo_of(Image.fromarray(COLORS), **exif).save(tmp_path / f"x.{suffix}")
            assert b"made by blurdiff" in (tmp_path / f"x.{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["x.gif", "x", "x.png.old", "x.npy"])
def test_unknown_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown suffix; use .png, .jpg, .jpeg, .webp, .tif, .tiff, or a folder"):
        photo_of(Image.fromarray(COLORS)).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_unclipped_pixels() -> None:
    pixels = np.full((3, 2, 2), 100.0)
    pixels[0, 0, 0], pixels[2, 1, 1] = 0, 255
    assert Photo(pixels).unclipped.tolist() == [[False, True], [True, False]]


def test_arrays_are_photos(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", COLORS)
    assert np.array_equal(read_photo((tmp_path / "x.npy").read_bytes(), "x.npy").pixels, COLORS.transpose(2, 0, 1))
    np.save(tmp_path / "x.npy", random.random((8, 8)))
    with pytest.raises(
        UnreadableError,
        match=r"^x.npy: not a readable image \(floating-point values have no known range: save it with 8 or 16 bits\)",
    ):
        read_photo((tmp_path / "x.npy").read_bytes(), "x.npy")
    for value in (-1, 65536):
        with pytest.raises(UnreadableError, match=r"x.tif: not a readable image \(values beyond 16 bits have no known range"):
            photo_of_values(value, tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"photo.jpg: not a readable image"):
        read_photo(b"no photo", "photo.jpg")


@pytest.mark.parametrize("form", ["8 bits", "color", "16 bits", "npy"])
def test_kernels_of_all_kinds_are_read(tmp_path: Path, form: str) -> None:
    values = np.zeros((5, 5))
    values[2, 1:4] = [50, 100, 50]
    images = {
        "8 bits": Image.fromarray(values.astype(np.uint8)),
        "color": Image.fromarray(np.stack([values, values / 2, values * 0], -1).astype(np.uint8)),
        "16 bits": Image.fromarray((values * 600).astype(np.uint16)),
    }
    if form == "npy":
        np.save(tmp_path / "k.npy", values / 7)
        content = (tmp_path / "k.npy").read_bytes()
    else:
        content = encoded(images[form])
    kernel, done = read_kernel(content, "k")
    np.testing.assert_allclose(kernel, [[0.25, 0.5, 0.25]], atol=1e-7)
    assert done == []


def test_what_is_no_kernel_names_its_file() -> None:
    with pytest.raises(UsageError, match=r"k.png: no blur kernel: it is empty"):
        read_kernel(encoded(Image.new("L", (5, 5))), "k.png")
    with pytest.raises(UserError, match=r"k.png: not a readable image"):
        read_kernel(b"", "k.png")


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "I;16", "P"])
def test_all_that_is_not_black_is_masked(mode: str) -> None:
    gray = np.zeros((4, 6), np.uint8)
    gray[1, 2:4] = 255
    image = Image.fromarray(gray.astype(np.uint16) * 3) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    assert np.array_equal(read_mask(encoded(image), "m"), gray > 0)
    faint = Image.new("RGB", (6, 4))
    faint.putpixel((2, 1), (0, 0, 1))
    assert read_mask(encoded(faint), "m").sum() == 1
