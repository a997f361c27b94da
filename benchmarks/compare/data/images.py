"""Pictures of one size, for a small convolutional network."""

import io

import numpy as np
from numpy.typing import NDArray

SIZE = 64


def draw(picture: bytes, size: int = SIZE) -> NDArray[np.uint8]:
    """Draw a PNG or an SVG, whichever it is, as `from_png` shows a PNG."""
    if picture.startswith(b"\x89PNG"):
        return from_png(picture, size)
    return from_svg(picture, size)


def from_svg(svg: bytes, size: int = SIZE) -> NDArray[np.uint8]:
    """Draw an SVG as `from_png` shows a PNG.

    Fonts are not loaded, so that every machine draws the same; text in the drawing is left out.
    """
    import resvg_py

    # Without a resolution, sizes in points or millimetres come out as 0.
    png = resvg_py.svg_to_bytes(svg_string=svg.decode(), dpi=96, skip_system_fonts=True)
    return from_png(png, size)


def from_png(png: bytes, size: int = SIZE) -> NDArray[np.uint8]:
    """Return a picture as (3, size, size), on white.

    Its transparent margin is cut away; the rest is scaled to fit and centred, in its proportions.
    """
    from PIL import Image

    with Image.open(io.BytesIO(png)) as file:
        picture = file.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    scaled = canvas.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), "white")
    square.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
