import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from w207lib.reading import images

EXIF_ORIENTATION = 0x0112
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 40, 3), np.uint8)
RAMP = np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)


def save(folder, image, name="a.png", **options):
    path = folder / name
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def refused(path):
    with pytest.raises(images.UnreadableImage) as caught:
        images.read_image(path)
    assert str(path) in str(caught.value) and caught.value.reason in str(caught.value)
    assert "\n" not in caught.value.reason
    return caught.value.status, caught.value.reason


# --- formats and modes -------------------------------------------------------------------


def test_an_image_is_read_as_upright_uint8_rgb_with_the_facts_of_its_header(tmp_path):
    path = save(tmp_path, NOISE)
    image, facts = images.open_image(path)
    assert np.array_equal(np.asarray(image), NOISE) and image.mode == "RGB"
    assert facts == {
        "width": 40, "height": 24, "format": "PNG", "mode": "RGB", "bytes": path.stat().st_size
    }  # fmt: skip
    assert images.read_image(path).dtype == np.uint8


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm", "webp"])
def test_every_lossless_format_gives_the_same_pixels_and_hash(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(NOISE, kind, **({"lossless": True} if kind == "webp" else {})))
    assert images.pixel_hash(images.read_image(path)) == images.pixel_hash(NOISE)


def test_the_ending_of_a_file_does_not_matter(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(NOISE, "png"))
    assert np.array_equal(images.read_image(path), NOISE)
    assert images.open_image(path)[1]["format"] == "PNG"


def test_greys_become_three_equal_channels(tmp_path):
    grey = NOISE[..., 0]
    found = images.read_image(save(tmp_path, grey))
    assert np.array_equal(found, np.dstack([grey] * 3))


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = NOISE[..., 0] > 127
    found = images.read_image(save(tmp_path, Image.fromarray(bits)))
    assert np.array_equal(found, np.dstack([bits * np.uint8(255)] * 3))


def test_transparency_is_laid_over_white(tmp_path):
    alpha = np.zeros((24, 40), np.uint8)
    alpha[:, :20] = 255
    alpha[0, 0] = 128
    found = images.read_image(save(tmp_path, np.dstack([NOISE, alpha])))
    assert np.array_equal(found[1:, :20], NOISE[1:, :20])
    assert (found[:, 20:] == 255).all()
    half = NOISE[0, 0] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(found[0, 0] - half).max() <= 1


def test_a_grey_image_with_alpha_is_laid_over_white(tmp_path):
    image = Image.merge("LA", [Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 0)])
    assert (images.read_image(save(tmp_path, image)) == 255).all()


def test_a_palettes_colours_are_looked_up_and_its_transparent_one_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    plain = images.read_image(save(tmp_path, image))
    assert plain.tolist() == [[[10, 20, 30], [200, 100, 50]]]
    clear = images.read_image(save(tmp_path, image, transparency=0))
    assert clear.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_a_transparent_colour_of_an_rgb_image_is_white(tmp_path):
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (200, 100, 50))
    found = images.read_image(save(tmp_path, image, transparency=(10, 20, 30)))
    assert found.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_cmyk_is_converted(tmp_path):
    path = save(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=100)
    red = images.read_image(path)[4, 4].astype(int)
    assert red[0] > 240 and red[1] < 15 and red[2] < 15
    assert images.open_image(path)[1]["mode"] == "CMYK"


def test_16_bits_are_scaled_to_8(tmp_path):
    levels = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
    found = images.read_image(save(tmp_path, levels))
    assert found[0, :, 0].tolist() == [0, 1, 100, 255]
    assert np.array_equal(found[..., 0], found[..., 2])


def test_a_dark_16_bit_image_stays_dark(tmp_path):
    found = images.read_image(save(tmp_path, np.full((2, 2), 200, np.uint16)))
    assert found.max() == 1


@pytest.mark.parametrize(
    ("largest", "odd", "shown"), [(1, [np.nan, -1], [0, 0]), (255, [np.nan, np.inf], [0, 255]),
                                  (1, [np.inf, -np.inf], [255, 0])]
)  # fmt: skip
def test_floats_up_to_1_and_up_to_255_are_the_same_picture(tmp_path, largest, odd, shown):
    levels = np.array([[0, 1, 100, 254, 255]]) / 255 * largest
    picture = Image.fromarray(np.append(levels, [odd], axis=1).astype(np.float32))
    path = save(tmp_path, picture, "a.tiff")
    assert images.read_image(path)[0, :, 0].tolist() == [0, 1, 100, 254, 255, *shown]
    assert images.open_image(path)[1]["mode"] == "F"


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("P", (6, 4), 0) for _ in range(3)]
    for frame, colour in zip(frames, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        frame.putpalette(colour)
    path = save(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert Image.open(path).n_frames == 3
    assert (images.read_image(path) == (255, 0, 0)).all()


STORED = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: np.rot90(a, -1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_is_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](NOISE))
    image, facts = images.open_image(save(tmp_path, stored, exif=exif))
    assert np.array_equal(np.asarray(image), NOISE)
    assert (facts["width"], facts["height"]) == (40, 24)


def test_broken_exif_does_not_spoil_an_image(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(RAMP, "jpeg", exif=b"Exif\0\0nonsense that is no TIFF header"))
    assert images.read_image(path).shape == (48, 64, 3)


# --- what cannot be read -----------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9, 0.99])
def test_a_jpeg_that_breaks_off_is_incomplete(tmp_path, share):
    data = encoded(np.tile(NOISE, (8, 8, 1)), "jpeg")
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    assert refused(path)[0] == "incomplete"


@pytest.mark.parametrize("kept", [4, 30, 200])
def test_a_jpeg_that_breaks_off_in_its_header_is_corrupted(tmp_path, kept):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(NOISE, "jpeg")[:kept])
    assert refused(path)[0] == "corrupted"


def test_a_png_that_breaks_off_is_incomplete(tmp_path):
    data = encoded(np.tile(NOISE, (8, 8, 1)), "png")
    path = tmp_path / "a.png"
    path.write_bytes(data[: len(data) // 2])
    assert refused(path)[0] == "incomplete"


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"this is text\n" * 50, "no image"), (bytes(1000), "no image"),
     (b"<html>404 Not Found</html>", "no image"),
     (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC, which is not read; save it as JPEG or PNG")],
)  # fmt: skip
def test_what_is_no_image_is_corrupted(tmp_path, data, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    status, found = refused(path)
    assert status == "corrupted" and reason in found


@pytest.mark.parametrize("side", [15_000, 100_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    data = encoded(np.zeros((8, 8, 3), np.uint8), "png")
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    path = tmp_path / "a.png"
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
    status, reason = refused(path)
    assert status == "corrupted" and "pixels" in reason


def test_the_pixel_limit_is_ours(tmp_path, monkeypatch):
    path = save(tmp_path, NOISE)
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 24)
    images.read_image(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 24 - 1)
    assert refused(path) == ("corrupted", "40×24 pixels are more than 959")


def test_a_missing_file_is_another_error_than_a_broken_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        images.read_image(tmp_path / "none.png")


def test_bytes_are_decoded_as_files_are_within_limits_of_their_own():
    image, facts = images.decode(encoded(NOISE, "png"), "a.png", most_pixels=40 * 24)
    assert np.array_equal(np.asarray(image), NOISE) and facts["format"] == "PNG"
    with pytest.raises(images.UnreadableImage, match="a.png.*40×24 pixels are more than 959"):
        images.decode(encoded(NOISE, "png"), "a.png", most_pixels=959)


def test_only_the_formats_named_are_tried():
    assert images.decode(encoded(NOISE, "bmp"), "a")[1]["format"] == "BMP"
    with pytest.raises(images.UnreadableImage, match="the content is none of JPEG, PNG"):
        images.decode(encoded(NOISE, "bmp"), "a", formats=("JPEG", "PNG"))


# --- hashes and resizing -----------------------------------------------------------------


def test_the_pixel_hash_is_sha256_over_shape_and_bytes():
    expected = hashlib.sha256(b"24,40,3:" + NOISE.tobytes()).hexdigest()
    assert images.pixel_hash(NOISE) == expected
    assert images.pixel_hash(np.asfortranarray(NOISE)) == expected


def test_the_pixel_hash_differs_for_other_shapes_and_for_one_other_pixel():
    assert images.pixel_hash(NOISE) != images.pixel_hash(NOISE.reshape(40, 24, 3))
    other = NOISE.copy()
    other[5, 5, 1] ^= 1
    assert images.pixel_hash(NOISE) != images.pixel_hash(other)


def test_resizing_antialiases():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = images.resize(stripes, 16)
    assert small.shape == (16, 16, 3) and small.dtype == np.uint8
    assert np.abs(small.astype(int) - 127).max() <= 12  # picking every fourth column gives 0


def test_resizing_to_the_same_size_changes_nothing():
    square = NOISE[:, :24]
    assert images.resize(square, 24) is square


def test_the_perceptual_hash_survives_encoding_again_and_tells_images_apart():
    rng = np.random.default_rng(4)
    scene = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
    scene = scene.resize((96, 80), Image.Resampling.BICUBIC)
    whole = int(images.perceptual_hash(scene), 16)
    again = Image.open(io.BytesIO(encoded(np.asarray(scene), "jpeg", quality=60)))
    smaller = scene.resize((48, 40), Image.Resampling.BICUBIC)
    for near in (again.convert("RGB"), smaller):
        assert (whole ^ int(images.perceptual_hash(near), 16)).bit_count() <= 4
    other = scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert (whole ^ int(images.perceptual_hash(other), 16)).bit_count() > 16


def test_a_bit_of_the_perceptual_hash_says_brighter_than_its_right_neighbour():
    falling = np.tile(np.linspace(255, 0, 90).astype(np.uint8)[None, :, None], (80, 1, 3))
    assert images.perceptual_hash(Image.fromarray(falling)) == "f" * 16
    assert images.perceptual_hash(Image.fromarray(falling[:, ::-1])) == "0" * 16
