"""Which frames of a clip are seen, and how: picking, cropping, resizing.

Pictures stay bytes ``(C, H, W)`` here; the encoder normalises them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import DataError
from benchmarks.paper.datasets.base import Frames, Kind, Source

Bytes: TypeAlias = NDArray[np.uint8]

SEEN = 3  # frames of a clip
KEPT = 3  # in the cache, for each of them


class Box(NamedTuple):
    """A rectangle of a picture, as fractions of its width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


class Pictures(Protocol):
    """The pictures of a clip."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Bytes:
        """A picture ``(H, W, C)``."""
        ...

    def aspect(self) -> float:
        """Width by height, as they were in the file."""
        ...


def pictures_seen(kind: Kind) -> int:
    """How many pictures of a clip the encoder sees."""
    return 1 if kind == "image" else SEEN


def pictures_of(source: Source) -> "PictureFiles":
    """The pictures of a source: of a picture file one, of frames many."""
    if isinstance(source, Path):
        source = Frames((source.parent,), (source.name,))
    assert isinstance(source, Frames)
    return PictureFiles(source)


class PictureFiles:
    """Pictures in files: one a frame, or u and v of the optical flow."""

    def __init__(self, frames: Frames) -> None:
        self._folders, self._names = frames

    def __len__(self) -> int:
        return len(self._names)

    def picture(self, index: int) -> Bytes:
        """A picture ``(H, W, C)``: RGB, or the two directions of the flow.

        Raises:
            DataError: If a file is cut off or is no picture, or if u and v differ in size.
        """
        files = [folder / self._names[index] for folder in self._folders]
        if len(files) == 1:
            return read_picture(files[0], "RGB")
        u, v = (read_picture(file, "L") for file in files)
        if u.shape != v.shape:
            raise DataError(f"{files[0].name}: u and v differ in size, {u.shape} and {v.shape}")
        return np.stack([u, v], axis=2)

    def aspect(self) -> float:
        """Width by height of the first picture; only its header is read."""
        from PIL import Image

        with Image.open(self._folders[0] / self._names[0]) as picture:
            return float(picture.width / picture.height)


def read_picture(path: Path, mode: str) -> Bytes:
    """Decode a picture file.

    Raises:
        DataError: If it is cut off or is no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert(mode))
    except UnidentifiedImageError:
        raise DataError(f"{path.name} is not a picture that can be read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name}: {error}") from None


def segments(count: int, number: int) -> Iterator[tuple[int, int]]:
    """Start and end of `number` equal segments of `count` frames.

    None is empty: of fewer frames than segments, some are in two of them.
    """
    for segment in range(number):
        start = segment * count // number
        yield start, max(start + 1, (segment + 1) * count // number)


def pick(count: int, number: int, draw: np.random.Generator | None) -> list[int]:
    """A frame of each segment: a random one, or without a generator the middle one."""
    return [
        (start + end) // 2 if draw is None else int(draw.integers(start, end))
        for start, end in segments(count, number)
    ]


def kept(count: int, number: int, each: int = KEPT) -> list[int]:
    """The frames of a long clip that the cache keeps: some of each segment, its middle among them.

    Their own segments have the same middles. Of a short clip all are kept.
    """
    if count <= number * each:
        return list(range(count))
    return [
        start + (2 * place + 1) * (end - start) // (2 * each)
        for start, end in segments(count, number)
        for place in range(each)
    ]


def random_box(aspect: float, draw: np.random.Generator) -> Box:
    """A box of 8 to 100 % of the area, sides 3 : 4 to 4 : 3; the usual one for image networks.

    If ten draws do not fit, the largest central box of an allowed shape.
    """
    for _ in range(10):
        area = draw.uniform(0.08, 1.0)
        shape = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = np.sqrt(area * shape / aspect), np.sqrt(area / shape * aspect)
        if width <= 1 and height <= 1:
            left, top = draw.uniform(0, 1 - width), draw.uniform(0, 1 - height)
            return Box(left, top, left + width, top + height)
    shape = min(max(aspect, 3 / 4), 4 / 3)
    width, height = min(1.0, shape / aspect), min(1.0, aspect / shape)
    return Box((1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2)


def resize(picture: Bytes, size: int, box: Box | None = None) -> Bytes:
    """The picture, or a box of it, as ``(size, size, C)``; bilinear, with antialiasing."""
    from PIL import Image

    height, width = picture.shape[:2]
    left, top, right, bottom = box or Box()
    # Cut out first: the filter would look beyond the box.
    across, down = _pixels(left, right, width), _pixels(top, bottom, height)
    picture = picture[down, across]
    # Two channels one by one: Pillow would take the second one for an opacity.
    layers = [picture] if picture.shape[2] == 3 else list(np.moveaxis(picture, 2, 0))
    resized = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(layer)).resize(
                (size, size), Image.Resampling.BILINEAR
            )
        )
        for layer in layers
    ]
    return resized[0] if picture.shape[2] == 3 else np.stack(resized, axis=2)


def _pixels(start: float, end: float, length: int) -> slice:
    """The pixels of a side, at least one."""
    first = min(round(start * length), length - 1)
    return slice(first, max(first + 1, round(end * length)))


def view(
    clip: Pictures, size: int, number: int, draw: np.random.Generator | None, *, flow: bool = False
) -> Bytes:
    """What the encoder sees of a clip: ``(number, C, size, size)``.

    In training, a random frame of each segment, one random box for all of them, and a flip of all
    with probability ½; a mirrored flow to the right is one to the left. Without a generator the
    middle frames, whole.
    """
    frames = pick(len(clip), number, draw)
    box = None if draw is None else random_box(clip.aspect(), draw)
    pictures = np.stack([resize(clip.picture(frame), size, box) for frame in frames])
    if draw is not None and draw.random() < 0.5:
        pictures = pictures[:, :, ::-1]
        if flow:
            pictures = np.stack([255 - pictures[..., 0], pictures[..., 1]], axis=3)
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
