"""Images of every mode, format and fault, as the one function reads them."""

import os
import pickle
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import image_files
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image, ImageCms, ImageOps

from steelyard.harness.data.image_scan import scan_image
from steelyard.harness.data.images import ImageError, as_rgb, decode, is_plain, open_image

RAMP = np.linspace(0, 65_535, 64 * 48).astype(np.uint16).reshape(48, 64)
"""Every brightness of 16 bits, on average half of white."""
COLOURS = Image.effect_noise((64, 48), 60).convert("RGB")


def stored(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Bytes of an image file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    image = decode(content, "test").image
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, colour: int, row: bytes, *chunks: bytes, width: int = 4) -> bytes:
    """Bytes of a PNG of two equal rows, for kinds that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, 2, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(2 * (b"\0" + row)))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks, body, chunk(b"IEND", b"")]
    )


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of entries of tag, type, count and value of up to four bytes."""
    parts = (struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    start = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    return start + b"".join(parts) + bytes(4)


TURNED = (0x112, 3, 1, struct.pack("<H", 6))
"""Orientation 6: the camera was held upright."""
OFFSET = struct.pack("<I", 9_999)
"""Position behind the end."""
BROKEN = {
    "unsigned where a sign belongs": (0x9204, 2, 2, b"a\0"),
    "value behind the end": (0x0131, 2, 40, OFFSET),
    "type that does not exist": (0x0110, 99, 1, b"a"),
    "sub-block behind the end": (0x8769, 4, 1, OFFSET),
    "GPS behind the end": (0x8825, 4, 1, OFFSET),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    grey = pixels(stored(Image.fromarray(RAMP), kind))
    assert abs(grey.mean() - 127) < 1 and (grey[0, 0] == 0).all() and (grey[-1, -1] == 255).all()
    # Pillow takes the upper byte of 16-bit colours, so grey has to do so, too.
    assert (grey[:, :, 0] == RAMP >> 8).all()


def test_the_scale_is_that_of_the_type_whatever_the_content() -> None:
    twelve_bits = Image.fromarray(RAMP >> 4)
    assert pixels(stored(twelve_bits, "PNG")).max() == 4095 >> 8
    words = Image.fromarray(RAMP.astype(np.int32))
    assert (pixels(stored(words, "TIFF"))[:, :, 0] == RAMP >> 8).all()
    for value, grey in ((0.0, 0), (0.5, 128), (1.0, 255)):
        constant = Image.fromarray(np.full((3, 5), value, np.float32))
        assert (pixels(stored(constant, "TIFF")) == grey).all()
    ramp = Image.fromarray((RAMP / 65_535).astype(np.float32))
    assert abs(pixels(stored(ramp, "TIFF")).mean() - 127.5) < 1


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.float32([[0, 255]]), "float values from 0 to 255"),
        (np.float32([[-0.1, 1]]), "float values from -0.1 to 1"),
        (np.float32([[0.5, np.nan]]), "float values from nan to nan"),
        (np.float32([[0.5, np.inf]]), "float values from 0.5 to inf"),
        (np.int32([[0, 65_536]]), "32-bit values from 0 to 65536"),
        (np.int32([[-1, 9]]), "32-bit values from -1 to 9"),
        # Of eight bits in 32: they would be black.
        (np.int32([[0, 255]]), "32-bit values from 0 to 255"),
    ],
)
def test_numbers_without_a_known_white_are_refused(values: Any, fault: str) -> None:
    content = stored(Image.fromarray(values), "TIFF")
    with pytest.raises(ImageError, match=rf"^photo.tiff: the image cannot be used \({fault}: .*\)"):
        decode(content, "photo.tiff")


def test_transparent_parts_are_white() -> None:
    half = Image.new("RGBA", (4, 2), (200, 0, 0, 0))
    half.paste((200, 0, 0, 255), (0, 0, 2, 2))
    half.putpixel((3, 0), (0, 0, 0, 51))  # a fifth of black
    expected = np.full((2, 4, 3), 255)
    expected[:, :2] = (200, 0, 0)
    assert (pixels(stored(half, "WEBP", lossless=True))[:, :3] == expected[:, :3]).all()
    expected[0, 3] = 204
    assert (pixels(stored(half, "PNG")) == expected).all()
    grey = half.convert("LA")
    assert (pixels(stored(grey, "PNG"))[:, 2:] == expected[:, 2:]).all()
    assert np.abs(np.asarray(as_rgb(half.convert("RGBa"))) - expected)[:, 2:].max() <= 1
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    clear = palette.convert("PA")
    assert (np.asarray(as_rgb(clear)) == (200, 0, 0)).all()
    clear.putalpha(Image.new("L", (4, 2)))
    assert (np.asarray(as_rgb(clear)) == 255).all()


def test_a_transparent_colour_is_white() -> None:
    palette = COLOURS.convert("P")
    palette.paste(7, (0, 0, 9, 9))
    for kind in ("PNG", "GIF"):
        assert (pixels(stored(palette, kind, transparency=7))[:9, :9] == 255).all()
    plain = Image.new("RGB", (4, 4), (10, 20, 30))
    assert (pixels(stored(plain, "PNG", transparency=(10, 20, 30))) == 255).all()
    wide = struct.pack(">3H", 0x0A0B, 0x1415, 0x1E1F)
    assert (pixels(png(16, 2, 4 * wide)) == (10, 20, 30)).all()
    assert (pixels(png(16, 2, 4 * wide, chunk(b"tRNS", wide))) == 255).all()
    assert (pixels(png(16, 0, 4 * wide[:2], chunk(b"tRNS", wide[:2]))) == 255).all()
    grey = pixels(png(8, 0, b"\7\x08\7\x08", chunk(b"tRNS", b"\0\7")))
    assert grey[0, :, 0].tolist() == [255, 8, 255, 8]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("L", "JPEG"), ("P", "PNG"), ("CMYK", "TIFF"), ("CMYK", "JPEG"),
     ("LAB", "TIFF"), ("RGB", "BMP"), ("RGB", "AVIF"), ("RGB", "WEBP")],
)  # fmt: skip
def test_colours_of_eight_bits_are_kept(mode: str, kind: str) -> None:
    image = COLOURS.resize((8, 6)).resize((64, 48))  # smooth: some formats lose detail
    if mode == "LAB":
        profiles = map(ImageCms.createProfile, ("sRGB", "LAB"))
        converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
        assert converted is not None
    else:
        converted = image.convert(mode)
    for other in ("YCbCr", "HSV", "RGBX"):
        same = np.asarray(as_rgb(image.convert(other))).astype(int)
        assert np.abs(same - np.asarray(image)).mean() < 8
    difference = pixels(stored(converted, kind)) - np.asarray(image).astype(int)
    assert abs(difference.mean()) < 3
    # Both are dithered.
    assert np.abs(difference).mean() < {"1": 128, "P": 25}.get(mode, 8)
    assert is_plain(stored(converted, kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_picture_is_turned_upright_whatever_else_is_wrong_with_its_exif(kind: str) -> None:
    image = Image.new("RGB", (64, 32), "white")
    image.paste("black", (0, 0, 32, 32))  # left, so on top when turned to the right
    for entries in ((TURNED,), *((entry, TURNED) for entry in BROKEN.values())):
        entries = tuple(sorted(entries))
        content = stored(image, kind, exif=exif(*entries))
        upright = decode(content, "turned")
        grey = pixels(content)
        assert upright.size == upright.image.size == (32, 64), entries
        assert ImageOps.exif_transpose(upright.image).size == (32, 64)
        assert grey[:28].max() < 40 and grey[36:].min() > 215


def test_orientations_that_do_not_exist_are_ignored() -> None:
    for entry in ((0x112, 3, 1, struct.pack("<H", 9)), (0x112, 2, 3, b"up\0")):
        content = stored(COLOURS, "PNG", exif=exif(entry))
        assert (pixels(content) == np.asarray(COLOURS)).all()
    noise = stored(COLOURS, "PNG", exif=b"Exif\0\0no EXIF at all")
    assert (pixels(noise) == np.asarray(COLOURS)).all()


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_large_metadata_of_a_png_is_no_fault(kind: bytes) -> None:
    head = b"key\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0")
    large = chunk(kind, head + zlib.compress(bytes(5 << 20)))
    assert (pixels(png(8, 0, b"\7\7\7\7", large)) == 7).all()


def test_all_orientations_by_hand() -> None:
    corner = Image.new("L", (16, 16))
    corner.paste(255, (0, 0, 8, 8))  # top left
    corners = {
        1: (0, 0),
        2: (0, 1),
        3: (1, 1),
        4: (1, 0),
        5: (0, 0),
        6: (0, 1),
        7: (1, 1),
        8: (1, 0),
    }
    for orientation, (row, column) in corners.items():
        entry = (0x112, 3, 1, struct.pack("<H", orientation))
        grey = pixels(stored(corner, "PNG", exif=exif(entry)))[4::8, 4::8, 0]
        assert np.argwhere(grey == 255).tolist() == [[row, column]], orientation


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"save_all": True, "append_images": frames[1:], "duration": 100}
    content = stored(frames[0], kind, **options)
    assert np.abs(pixels(content) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (10_000, 3)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_extreme_shapes_are_read(size: tuple[int, int], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "shape"
    path.write_bytes(stored(Image.new("L", size, 77), kind))
    assert open_image(path).size == size
    look = scan_image(path)
    assert (look.fault, look.width, look.height) == ("", *size)


def header_only(width: int, height: int) -> bytes:
    """Bytes of a PNG that claims a size and has next to no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", b"")])


FAULTS: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty file"),
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "listing.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "bomb.png": (header_only(40_000, 40_000), "1600000000 pixels"),
    "width0.png": (header_only(0, 5), ""),
    "cut.png": (stored(COLOURS, "PNG")[:-60], "truncated"),
    "cut.jpg": (stored(COLOURS, "JPEG")[:-60], "truncated"),
    "cut.gif": (stored(COLOURS, "GIF")[:-60], "truncated"),
    "cut.webp": (stored(COLOURS, "WEBP")[:-60], ""),
    "cut.tif": (stored(COLOURS, "TIFF")[:600], ""),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_with_the_name_and_check_has_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As lmms-eval and its tasks leave them.
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    content, fault = FAULTS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")
    assert fault in caught.value.fault and scan_image(path).fault == caught.value.fault


def test_what_is_no_file_is_refused_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    faults = {
        "folder.jpg": "not a file",
        "pipe.jpg": "not a file",
        "link.jpg": "missing",
        "loop.jpg": "cannot be read: Too many levels",
        "absent.jpg": "missing",
        "long" * 99: "cannot be read: File name too long",
        "nul\0.jpg": "",
        "half\ud800.jpg": "",
    }
    for name, fault in faults.items():
        path = tmp_path / name
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert fault in caught.value.fault and scan_image(path).fault == caught.value.fault
    if os.geteuid():
        (tmp_path / "secret.jpg").touch(0)
        with pytest.raises(ImageError, match="Permission denied"):
            open_image(tmp_path / "secret.jpg")


@pytest.mark.parametrize("name", ["Ünïcode 100%.JPG", "a b#[c].Png", "\u202e\u4e2d.jpeg", "none"])
def test_any_name_is_read_and_the_content_decides(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(stored(COLOURS, "WEBP", lossless=True))
    assert (np.asarray(open_image(path)) == np.asarray(COLOURS)).all()


def test_an_error_survives_its_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(ImageError(Path("a.jpg"), "empty file")))
    assert (str(error), error.fault) == (
        "a.jpg: the image cannot be used (empty file).", "empty file",
    )  # fmt: skip


def test_only_rules_that_matter_for_the_pixels_are_noted() -> None:
    opaque = stored(COLOURS.convert("RGBA"), "PNG")
    assert not decode(opaque, "opaque").is_converted and not is_plain(opaque)
    clear: Callable[[int], Image.Image] = lambda alpha: Image.new("RGBA", (2, 2), (1, 2, 3, alpha))  # noqa: E731
    assert decode(stored(clear(254), "PNG"), "clear").is_converted
    assert decode(stored(Image.fromarray(RAMP), "PNG"), "wide").is_converted
    assert not decode(stored(COLOURS, "JPEG"), "photo").is_converted


@settings(max_examples=150, derandomize=True, deadline=None)
@given(content=image_files.CONTENTS)
def test_a_thumbnail_fails_where_the_full_image_does(content: bytes) -> None:
    outcomes = []
    for edge in (None, 18):
        try:
            image = decode(content, "test", edge)
            outcomes.append((image.size, image.is_converted))
        except ImageError as error:
            outcomes.append((error.fault,))
    assert outcomes[0] == outcomes[1]
