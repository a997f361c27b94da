"""Small made-up copies of the data sets, in their layouts: to try the commands on, and to test.

A class shows in every modality: the pitch of a sound, the colour of a picture, a word of a text.
"""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
WORDS = ("sour", "sweet", "salty")
CLASSES = 3


class Look(NamedTuple):
    """How large a made-up copy is; the defaults are for tests.

    Attributes:
        clips: How many, of three classes (of two, where a data set has no more).
        width: Of the pictures.
        height: Of the pictures.
        frames: Of a clip.
        seconds: Of a sound.
    """

    clips: int = 30
    width: int = 40
    height: int = 30
    frames: int = 4
    seconds: float = 0.3


def write_sample(name: str, root: Path, look: Look = Look()) -> None:  # noqa: B008
    """Write a made-up copy of a data set into a folder."""
    root.mkdir(parents=True, exist_ok=True)
    _WRITERS[name](root, look, np.random.default_rng(0))


def write_text_encoder(folder: Path) -> None:
    """A tiny untrained ELECTRA with a vocabulary of `WORDS`, for `--text-encoder`."""
    from transformers import ElectraConfig, ElectraModel

    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "ElectraTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = ElectraConfig(
        vocab_size=len(vocabulary),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
    )
    ElectraModel(config).save_pretrained(folder)


def write_image_encoder(folder: Path) -> None:
    """A tiny untrained residual network, for `--image-encoder`."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)


def _labels(look: Look, classes: int = CLASSES) -> list[int]:
    return [number % classes for number in range(look.clips)]


def _lines(path: Path, header: str, rows: Sequence[str], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding=encoding)


def _sound(path: Path, label: int, look: Look, draw: np.random.Generator) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(RATE * look.seconds)) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 400 * (1 + label) * time)
    soundfile.write(path, tone + 0.05 * draw.normal(size=len(time)), RATE)


def _picture(path: Path, label: int, look: Look, draw: np.random.Generator, mode: str) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.zeros(3) if mode == "RGB" else np.full(1, 60.0 * label)
    if mode == "RGB":
        colour[label] = 160
    noise = draw.integers(0, 60, size=(look.height, look.width, len(colour)))
    pixels = (noise + colour).astype(np.uint8)
    Image.fromarray(pixels if mode == "RGB" else pixels[..., 0]).save(path, quality=90)


def _frames(
    folder: Path,
    pattern: str,
    label: int,
    look: Look,
    draw: np.random.Generator,
    mode: str = "RGB",
) -> None:
    for number in range(1, look.frames + 1):
        _picture(folder / pattern.format(number), label, look, draw, mode)


def _thirds(rows: Sequence[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """As lists of training, validation and test; the readers pool them."""
    first, second = len(rows) * 6 // 10, len(rows) * 8 // 10
    return rows[:first], rows[first:second], rows[second:]


def _cremad(root: Path, look: Look, draw: np.random.Generator) -> None:
    names = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
    _lines(root / "stat.csv", f"{names[0]},1", [f"{n},1" for n in names[1:]], "utf-8-sig")
    rows = []
    for number, label in enumerate(_labels(look)):
        clip = f"{1001 + number // CLASSES}_IEO_{names[label]}_XX"  # a speaker, every class
        _sound(root / "AudioWAV" / f"{clip}.wav", label, look, draw)
        _frames(root / "visual_frames" / clip, "{:05d}.jpg", label, look, draw)
        rows.append(f"{clip},{names[label]}")
    for file, part in zip(("train_split.csv", "val.csv", "test.csv"), _thirds(rows), strict=True):
        _lines(root / file, "clip,label", part)


def _kinetics_sounds(root: Path, look: Look, draw: np.random.Generator) -> None:
    rows = []
    for number, label in enumerate(_labels(look)):
        name = f"clip-{number:03d}"
        _sound(root / "audios" / f"{name}.wav", label, look, draw)
        _frames(root / "videos" / name, "frame_{:05d}.jpg", label, look, draw)
        rows.append(f"{name} 0 10 {label}")
    train, validation, test = _thirds(rows)
    _lines(root / "videos" / "train.txt", "filename start end label", train)
    _lines(root / "videos" / "val.txt", "filename start end label", [*validation, *test])


def _ucf101(root: Path, look: Look, draw: np.random.Generator) -> None:
    classes = [f"{index} Action{index}" for index in range(1, 102)]
    (root / "classInd.txt").write_text("\n".join(classes) + "\n", encoding="utf-8-sig")
    rows = []
    for number, label in enumerate(_labels(look)):
        name = f"v_Action{label + 1}_g{number:02d}_c01"
        _frames(root / "frames_rgb" / name, "img_{:05d}.jpg", label, look, draw)
        for folder in ("flows_u", "flows_v"):
            _frames(root / folder / name, "frame{:05d}.jpg", label, look, draw, mode="L")
        rows.append(f"Action{label + 1}/{name}.avi {label + 1}")
    train, validation, test = _thirds(rows)
    _lines(root / "trainlist01_new.txt", "path label", train)
    _lines(root / "testlist01_new.txt", "path label", [*validation, *test])


def _food101(root: Path, look: Look, draw: np.random.Generator) -> None:
    rows = []
    for number, label in enumerate(_labels(look)):
        part = "train" if number < look.clips * 3 // 4 else "test"
        image = f"{WORDS[label]}_{number}.jpg"
        _picture(root / "images" / part / image, label, look, draw, "RGB")
        recipe = {"img": image, "text": f"a {WORDS[label]} dish", "label": f"dish-{label}"}
        rows.append((part, json.dumps(recipe)))
    for part in ("train", "test"):
        text = "\n".join(line for of, line in rows if of == part)
        (root / f"{part}.jsonl").write_text(text + "\n", encoding="utf-8")


def _tweets(classes: int) -> Callable[[Path, Look, np.random.Generator], None]:
    def write(root: Path, look: Look, draw: np.random.Generator) -> None:
        tweets = []
        for number, label in enumerate(_labels(look, classes)):
            image = f"{number}.jpg"
            _picture(root / "images" / image, label, look, draw, "RGB")
            tweets.append([image, f"so {WORDS[label]}", label])
        first, second = look.clips * 6 // 10, look.clips * 8 // 10
        parts = tweets[:first], tweets[first:second], tweets[second:]
        for file, part in zip(("train.json", "valid.json", "test.json"), parts, strict=True):
            (root / file).write_text(json.dumps(part), encoding="utf-8")

    return write


def _mosi(root: Path, look: Look, draw: np.random.Generator) -> None:
    widths = {"text": 12, "audio": 5, "vision": 7}
    content = {}
    for part, rows in (
        ("train", look.clips),
        ("valid", look.clips // 3),
        ("test", look.clips // 3),
    ):
        labels: NDArray[np.float32] = draw.uniform(-3, 3, size=rows).astype(np.float32)
        content[part] = {
            "id": [f"{part}$_${row}" for row in range(rows)],
            "regression_labels": labels,
            **{
                name: (labels[:, None, None] + draw.normal(size=(rows, 6, width))).astype("f4")
                for name, width in widths.items()
            },
        }
    (root / "aligned_50.pkl").write_bytes(pickle.dumps(content))


_WRITERS: dict[str, Callable[[Path, Look, np.random.Generator], None]] = {
    "cremad": _cremad,
    "kinetics-sounds": _kinetics_sounds,
    "ucf101": _ucf101,
    "food101": _food101,
    "mosi": _mosi,
    "sarcasm": _tweets(2),
    "twitter2015": _tweets(CLASSES),
}
