"""Image files of every kind: the right picture, or one error that names the file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from x2sam_ros.bag import media
from x2sam_ros.bag.media import read_image
from x2sam_ros.bag.source import open_source
from x2sam_ros.engine.preprocess import mask_encoder_pixels, picture_patches
from x2sam_ros.errors import BagError, FrameError
from x2sam_ros.model.language_config import LanguageConfig

EXIF_ORIENTATION = 0x0112


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """Return a smooth picture, which survives a JPEG, no two corners of it alike."""
    coarse = np.random.default_rng(5).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


RGB = picture()
GREY = RGB[..., 0]
ALPHA = np.linspace(0, 255, GREY.size).reshape(GREY.shape).astype(np.uint8)


def written(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["one.png", "one.bmp", "one.tif", "one.tiff", "one.ppm", "one.webp", "ONE.PNG"])
def test_colour(name: str, tmp_path: Path) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    np.testing.assert_array_equal(read_image(written(tmp_path / name, Image.fromarray(RGB), **options)), RGB)


@pytest.mark.parametrize("name", ["one.png", "one.bmp", "one.tif", "one.pgm"])
def test_grey(name: str, tmp_path: Path) -> None:
    found = read_image(written(tmp_path / name, Image.fromarray(GREY)))
    np.testing.assert_array_equal(found, np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["one.png", "one.webp"])
def test_alpha_is_ignored(name: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    found = read_image(written(tmp_path / name, image, lossless=True, exact=True))
    np.testing.assert_array_equal(found, RGB)


def test_grey_with_alpha_and_a_transparent_colour(tmp_path: Path) -> None:
    found = read_image(written(tmp_path / "la.png", Image.fromarray(np.dstack([GREY, ALPHA]))))
    np.testing.assert_array_equal(found, np.repeat(GREY[..., None], 3, axis=2))
    palette = Image.fromarray(RGB).quantize(16)
    found = read_image(written(tmp_path / "palette.png", palette, transparency=3))
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))


def test_a_tiff_with_unassociated_alpha_lies_over_black(tmp_path: Path) -> None:
    found = read_image(written(tmp_path / "one.tif", Image.fromarray(np.dstack([RGB, ALPHA]))))
    over_black = RGB * (ALPHA[..., None] / 255)
    assert np.abs(found - over_black).max() <= 1


@pytest.mark.parametrize("name", ["one.png", "one.tif"])
@pytest.mark.parametrize("kind", ["grey", "colour", "alpha"])
def test_16_bits_are_scaled_by_one_in_257(name: str, kind: str, tmp_path: Path) -> None:
    wide = np.random.default_rng(1).integers(0, 1 << 16, (9, 7, 3)).astype(np.uint16)
    stored = {"grey": wide[..., 0], "colour": wide[..., ::-1], "alpha": np.dstack([wide[..., ::-1], wide[..., :1]])}
    assert cv2.imwrite(str(tmp_path / name), np.ascontiguousarray(stored[kind]))
    colour = np.repeat(wide[..., :1], 3, axis=2) if kind == "grey" else wide
    np.testing.assert_array_equal(read_image(tmp_path / name), np.rint(colour / 257).astype(np.uint8))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["P", "1"])
def test_palette_and_black_and_white(mode: str, suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16) if mode == "P" else Image.fromarray(RGB).convert("1")
    found = read_image(written(tmp_path / f"one.{suffix}", image))
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(mode: str, progressive: bool, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert(mode)
    found = read_image(written(tmp_path / "one.jpg", image, quality=95, progressive=progressive))
    assert np.abs(found.astype(int) - np.asarray(image.convert("RGB"))).max() <= 12


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_pictures_are_turned_upright(orientation: int, turns: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    found = read_image(written(tmp_path / "one.jpg", Image.fromarray(RGB), quality=95, exif=exif))
    expected = np.rot90(RGB, turns)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3


def encoded(suffix: str, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(RGB).save(stream, Image.registered_extensions()[suffix], **options)
    return stream.getvalue()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jpg", {}),
        (".jpg", {"progressive": True}),
        (".png", {}),
        (".bmp", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".webp", {"lossless": True}),
        (".ppm", {}),
    ],
)
def test_a_truncated_file_is_named(
    suffix: str, options: dict[str, object], share: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, path = encoded(suffix, **options), tmp_path / f"half{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FrameError, match=f"half{suffix}.*(truncated|corrupt)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # what OpenCV thinks of it


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is an empty file"),
        (b"these are words\n", "corrupt or not JPEG or PNG"),
        (b"\0" * 5_000, "corrupt or not JPEG or PNG"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(FrameError, match=f"notes.png.*{words}"):
        read_image(path)
    with pytest.raises(BagError, match=f"notes.png.*{words}"):
        next(iter(open_source(path)))


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="gone.png cannot be read: No such file"):
        read_image(tmp_path / "gone.png")


def test_real_numbers_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "real.tiff"), RGB.astype(np.float32) / 255)
    with pytest.raises(FrameError, match=r"real.tiff.*float32 samples; save it with 8 or 16 bits"):
        read_image(tmp_path / "real.tiff")


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_IMAGE_PIXELS", RGB.shape[0] * RGB.shape[1] - 1)
    with pytest.raises(FrameError, match="large.png has 64x48 pixels, more than 3071; scale it down"):
        read_image(written(tmp_path / "large.png", Image.fromarray(RGB)))


def test_a_broken_image_of_a_folder_is_left_out_and_named(tmp_path: Path) -> None:
    for index in range(3):
        written(tmp_path / f"shot{index}.png", Image.fromarray(RGB))
    (tmp_path / "shot1.png").write_bytes(encoded(".png")[:100])
    source = open_source(tmp_path)
    assert [Path(frame.source).name for frame in source] == ["shot0.png", "shot2.png"]
    assert source.problems.count == 1 and "shot1.png" in source.problems.messages[0]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (6_000, 8_000)])
def test_the_smallest_and_a_very_large_picture(height: int, width: int, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    cv2.imwrite(str(path), np.broadcast_to(ramp[None, :, None], (height, width, 3)))
    (frame,) = open_source(path)
    assert frame.size == (height, width)
    for resample in ("pil", "torch"):
        pixels = mask_encoder_pixels(frame.image, 64, resample=resample)
        assert pixels.shape == (1, 3, 64, 64) and pixels.isfinite().all()
    config = LanguageConfig()
    patches, grid = picture_patches(frame.image, config)
    assert len(patches) == grid.prod() and patches.abs().max() <= 1
    assert config.min_pixels <= len(patches) * config.vision.patch_size**2 <= config.max_pixels
