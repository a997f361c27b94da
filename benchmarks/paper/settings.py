"""What may be chosen about a run on one of the paper's data sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bfloat16"]
ProtocolName = Literal["paper", "speakers"]
TEXT_ENCODER = "google/electra-small-discriminator"
IMAGE_ENCODER = "microsoft/resnet-18"


@dataclass(frozen=True)
class Settings:
    """What may be chosen; the rest is the protocol.

    Attributes:
        root: Folder of the data.
        out: Where splits, runs and the table go, in a folder named after data set and
            protocol.
        protocol: paper: the paper's. speakers: the same but for the split, which is by speaker
            (cremad).
        cache: Folder for decoded sound and frames; None: read the files every time.
        jobs: Processes that build the cache.
        workers: Processes that read clips during training.
        precision: Of the encoders.
        text_encoder: Folder or hub name of an ELECTRA with its tokenizer.
        image_encoder: Folder or hub name of a pretrained ResNet, where the protocol has one.
        leave_out_broken: Go on without the clips that cannot be used.
        rehearse: Tiny encoders and inputs, few clips, two epochs.
        save_every: Steps between two checkpoints.
    """

    root: Path
    out: Path = Path("runs/reproduce")
    protocol: ProtocolName = "paper"
    cache: Path | None = None
    jobs: int = 2
    workers: int = 5
    precision: Precision = "float32"
    text_encoder: str = TEXT_ENCODER
    image_encoder: str = IMAGE_ENCODER
    leave_out_broken: bool = False
    rehearse: bool = False
    save_every: int = 100
