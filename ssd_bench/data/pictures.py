"""Image files of any size and mode to square pixels, through Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none that calls another program
MOST_PIXELS = 178_956_970  # beyond which Pillow itself refuses
BLOCK = 4096  # files that are looked at together
BLOCK_BYTES = 1 << 24  # of decoded images that are in memory at a time

Result = np.ndarray | str  # pixels, or why there are none


@dataclass(frozen=True)
class Pictures:
    """How an image becomes `channels` x `side` x `side` pixels.

    fit: "crop" takes the largest square from the middle, "stretch" all of it, whatever its shape.
    """

    side: int
    channels: int
    fit: str
    max_pixels: int

    def key(self) -> dict[str, Any]:
        """All that determines the pixels, beside the files."""
        settings = asdict(self) | {"max_pixels": None}  # which decides on whether there are any
        return {**settings, "pillow": version("pillow"), "version": 1}

    def read(self, path: Path) -> np.ndarray:
        """channels x side x side, uint8. Raises whatever Pillow does, and TooLarge before anything is unpacked.

        Turned as EXIF says; transparent parts become white; 16 bits become 8; colour profiles are not applied.
        """
        with _opened(path) as image:
            width, height = image.size
            if width * height > self.max_pixels:
                raise TooLarge(f"{path} would unpack to {width} x {height} pixels")
            image.draft(None, (2 * self.side, 2 * self.side))  # a JPEG is unpacked no larger than it takes
            ImageOps.exif_transpose(image, in_place=True)
            plain = _eight_bits(image)
            plain.load()
        if plain.has_transparency_data:
            white = Image.new("RGBA", plain.size, "white")
            plain = Image.alpha_composite(white, plain.convert("RGBA"))
        plain = plain.convert("L" if self.channels == 1 else "RGB")
        size = (self.side, self.side)
        if self.fit == "crop":
            plain = ImageOps.fit(plain, size, Image.Resampling.BICUBIC)
        elif plain.size != size:
            plain = plain.resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(plain)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


class TooLarge(Exception):
    """An image would unpack beyond what is allowed."""


def _opened(path: Path) -> Image.Image:
    """The image, of which only the header has been read."""
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise TooLarge(f"{path} would unpack to more than {MOST_PIXELS} pixels") from e


def _eight_bits(image: Image.Image) -> Image.Image:
    """The same with 8 bits a channel. Raises ValueError for pixels without a known range."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen:
        return Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel, of no known range")
    return image


def decoded(pictures: Pictures, paths: Sequence[Path]) -> Iterator[list[Result]]:
    """The images in their order, block by block, decoded by as many threads as PyTorch uses.

    Raises TooLarge, which no setting lets pass.
    """

    def read(chunk: Sequence[Path]) -> list[Result]:
        return [_try(pictures, path) for path in chunk]

    with warnings.catch_warnings(action="ignore"):  # of odd metadata: what cannot be read is named
        yield from _in_threads(read, paths, BLOCK_BYTES // (pictures.channels * pictures.side**2))


def _try(pictures: Pictures, path: Path) -> Result:
    try:
        return pictures.read(path)
    except TooLarge:
        raise
    except Exception as e:  # whatever a decoder may raise over a damaged file
        said = " ".join(str(e).split()) or type(e).__name__
        return said.replace(repr(str(path)), "").strip()[:100]


def hashed(paths: Sequence[Path]) -> Iterator[list[str]]:
    """sha256 of each file, block by block; empty for one that cannot be opened."""

    def read(chunk: Sequence[Path]) -> list[str]:
        return [_sha256(path) for path in chunk]

    yield from _in_threads(read, paths, BLOCK)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _in_threads(read: Any, paths: Sequence[Path], block: int) -> Iterator[list[Any]]:
    """What `read` makes of the paths, in their order; no more than `block` of it is in memory at a time."""
    threads = torch.get_num_threads()
    block = max(threads, min(block, BLOCK))
    chunk = max(1, min(64, block // threads))  # what one thread takes at a time
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), block):
            of_block = paths[start : start + block]
            chunks = [of_block[i : i + chunk] for i in range(0, len(of_block), chunk)]
            yield [result for of_chunk in pool.map(read, chunks) for result in of_chunk]
