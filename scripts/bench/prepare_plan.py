"""The plan of a large production, without the production: made-up results of its scan, planned by the real binary.

Usage: prepare_plan.py PREPARE FOLDER ROWS

Makes ROWS / 250 empty files in FOLDER/in, and in FOLDER/out.partial the records that a scan of a hundred shards would
have left of 250 rows in each: a third of the images repeat one of ten million, 14 % are main tracks with a true
position. Then runs `PREPARE … --phase plan` and prints its summary, seconds and peak memory.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROWS_OF_FILE, SHARDS = 250, 100
RECORD = np.dtype([("flags", "u1"), ("event", "<i8"), ("image", "<u8", 2), ("truth", "u1", 12)])
MAIN, EVENT, TRUTH = 2, 4, 8


def mixed(number: np.ndarray) -> np.ndarray:
    """SplitMix64: other numbers give other, evenly spread results."""
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


def records(first: int, count: int, rng: np.random.Generator) -> np.ndarray:
    rows = np.zeros(count, RECORD)
    is_main = rng.random(count) < 0.14
    number = np.arange(first, first + count, dtype=np.uint64)
    image = np.where(rng.random(count) < 1 / 3, rng.integers(0, 10**7, count, dtype=np.uint64), number + np.uint64(10**9))
    rows["flags"] = EVENT + (MAIN + TRUTH) * is_main
    rows["event"] = number % np.uint64(ROWS_OF_FILE) // np.uint64(10)
    rows["image"][:, 0], rows["image"][:, 1] = mixed(image + np.uint64(1)), mixed(image + np.uint64(1 << 40))
    rows["truth"] = rng.integers(0, 256, (count, 12), dtype=np.uint8) * is_main[:, None]
    return rows


def main(prepare: str, folder: Path, rows: int) -> None:
    inputs, partial = folder / "in", folder / "out.partial"
    inputs.mkdir(parents=True)
    config = folder / "config.json"
    config.write_text('{"plane": "X", "model_parameters": {"input_shape": [128, 16, 1]}}')
    command = [prepare, "--config", config, "--input", inputs, "--output", folder / "out", "--phase", "plan"]
    names = [f"prod_{number:07}_planeX.npz" for number in range(rows // ROWS_OF_FILE)]
    for name in names:
        (inputs / name).touch()
    # Says that there is no scan, but what the folder is for.
    subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
    rng = np.random.default_rng(42)
    for shard in range(SHARDS):
        mine = names[len(names) * shard // SHARDS : len(names) * (shard + 1) // SHARDS]
        probe = {"rows": ROWS_OF_FILE, "columns": 14, "crc": [0, 0], "has_event": True}
        files = [
            {"source": f"in/{name}", "stem": f"in/{name[:12]}", "path": str(inputs / name), "size": 0, "bad": None,
             "probe": probe, "records_at": number * ROWS_OF_FILE, "dropped": 0, "has_large_events": False}
            for number, name in enumerate(mine)
        ]
        path = partial / f"scan-{shard:04}-of-{SHARDS:04}.json"
        path.write_text(json.dumps({"schema_version": 1, "with_images": True, "files": files}))
        first = len(names) * shard // SHARDS * ROWS_OF_FILE
        records(first, len(mine) * ROWS_OF_FILE, rng).tofile(path.with_suffix(".rows"))
    os.sync()
    start = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{seconds:.1f} s, {peak / 1e6:.0f} MB, {peak / rows:.1f} bytes a row")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).absolute(), int(sys.argv[3]))
