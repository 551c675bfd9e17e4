"""What the users' own tools say of one run of the chain: sys.argv[1] is its folder."""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import optuna
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sklearn.metrics import f1_score

folder = Path(sys.argv[1])

# pyarrow reads the tensor column as (rows, height, width); the model runs in stock onnxruntime with equal scores.
table = ds.dataset(folder / "data/test", format="parquet").to_table()
images = table["image"].combine_chunks()
images = images.chunk(0) if hasattr(images, "num_chunks") else images
images = images.to_numpy_ndarray()
assert images.shape[1:] == (128, 16) and images.dtype == np.float32, images.shape
session = onnxruntime.InferenceSession(str(folder / "study/best.onnx"), providers=["CPUExecutionProvider"])
scores = session.run(["probability"], {"image": images})[0]
predictions = pq.read_table(folder / "report/predictions.parquet").to_pydict()
assert list(predictions["row"]) == table["row"].to_pylist()
difference = np.abs(scores - np.array(predictions["score"], dtype=np.float32)).max()
assert difference <= 1e-6, difference

# scikit-learn finds the same F1.
report = json.loads((folder / "report/report.json").read_text())
labels = table["is_main_track"].to_numpy()
called = np.array(predictions["score"], dtype=np.float32) >= np.float32(report["threshold"])
assert abs(f1_score(labels, called) - report["f1"]["main_track"]) < 1e-9

# optuna reads the journal.
study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(folder / "study/journal.log"))))
assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE"], study.trials
result = json.loads((folder / f"study/trials/{study.best_trial.number:04}/result.json").read_text())
assert study.best_value == result["value"]
assert all(t.intermediate_values for t in study.trials)
print("all checks passed")
