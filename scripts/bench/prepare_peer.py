"""The peer that `prepare` is measured against: everything in memory, numpy and pyarrow.

Usage: prepare_peer.py INPUT OUTPUT

Reads every *_planeX.npz below INPUT, concatenates, permutes with a seed, cuts into train, validation and
test, and writes OUTPUT/{train,validation,test}.parquet with zstd. Prints rows, seconds, seconds of CPU, rows/s,
peak memory in MB and bytes written.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = {"event": 0, "is_marley": 1, "is_main_track": 2, "is_es": 3, "position_x": 4, "position_y": 5,
           "position_z": 6, "momentum_x": 7, "momentum_y": 8, "momentum_z": 9, "neutrino_energy": 10,
           "particle_energy": 11, "match_id": 13}


def main(source: Path, output: Path) -> None:
    start = time.perf_counter()
    images, metadata, names, rows = [], [], [], []
    for path in sorted(source.rglob("*_planeX.npz")):
        with np.load(path) as file:
            images.append(file["images"])
            metadata.append(file["metadata"])
        names += [str(path.relative_to(source))] * len(images[-1])
        rows.append(np.arange(len(images[-1]), dtype=np.uint32))
    images, metadata, rows = np.concatenate(images), np.concatenate(metadata), np.concatenate(rows)
    order = np.random.default_rng(42).permutation(len(images))
    images, metadata, rows, names = images[order], metadata[order], rows[order], np.array(names)[order]
    energy = images.sum(axis=(1, 2)) / 3600
    output.mkdir(parents=True, exist_ok=True)
    cuts = [0, int(0.7 * len(images)), int(0.85 * len(images)), len(images)]
    for split, first, last in zip(["train", "validation", "test"], cuts, cuts[1:]):
        tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(images[first:last])
        columns = {"image": tensor}
        columns |= {name: pa.array(metadata[first:last, column]) for name, column in COLUMNS.items()}
        columns["source"] = pa.array(names[first:last]).dictionary_encode()
        columns["row"] = pa.array(rows[first:last])
        columns["cluster_energy"] = pa.array(energy[first:last])
        pq.write_table(pa.table(columns), output / f"{split}.parquet", compression="zstd")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(path.stat().st_size for path in output.glob("*.parquet"))
    cpu = time.process_time()
    print(f"{len(images)} rows, {seconds:.2f} s, {cpu:.2f} s of CPU, {len(images) / seconds:.0f} rows/s, {peak:.0f} MB, {size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
