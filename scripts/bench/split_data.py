"""The clusters of a folder that `prepare` made, for the peers in Python."""

import json
from pathlib import Path

import numpy as np

# Images turned into whole ones at a time.
CHUNK = 16384


def manifest(data):
    return json.loads((Path(data) / "manifest.json").read_text())


def pieces(data, split):
    """Pieces of `[rows, height · width]` in f32 and their labels.

    Read with pyarrow, or from the numpy arrays that `cargo run --release -p shared --example arrays -- SPLITS DATA` wrote.
    """
    folder, shape = Path(data) / split, manifest(data)
    if (folder / "labels.npy").exists():
        return from_arrays(folder, shape["height"] * shape["width"])
    return from_parquet(folder)


def from_parquet(folder):
    try:
        import pyarrow.dataset
    except ImportError as missing:
        raise SystemExit(
            f"{folder} holds Parquet and pyarrow is missing; write numpy arrays with the example `arrays` of crate `shared`"
        ) from missing
    dataset = pyarrow.dataset.dataset(str(folder), format="parquet")
    for batch in dataset.to_batches(columns=["image", "is_main_track"], batch_size=CHUNK):
        if batch.num_rows:
            image, is_main = batch.column("image"), batch.column("is_main_track").to_numpy(zero_copy_only=False)
            image = image.storage if hasattr(image, "storage") else image
            yield image.flatten().to_numpy().reshape(batch.num_rows, -1).copy(), is_main


def from_arrays(folder, pixels):
    ends, places, adc, labels = (np.load(folder / f"{name}.npy") for name in ("ends", "places", "adc", "labels"))
    starts = np.concatenate([[0], ends])
    for first in range(0, len(labels), CHUNK):
        last = min(first + CHUNK, len(labels))
        here = slice(starts[first], starts[last])
        row = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))
        found = np.zeros((last - first, pixels), "f4")
        found[row, places[here]] = adc[here]
        yield found, labels[first:last]
