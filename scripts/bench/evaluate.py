"""Times `evaluate` against Python: scores against onnxruntime alone, all else against scikit-learn and matplotlib.

Usage: python scripts/bench/evaluate.py MODEL SPLIT/test [--threads 2] [--rounds 3]

Needs onnxruntime, pyarrow, scikit-learn, matplotlib. The two sides take turns, so that a busy machine slows both.
Python's images are in memory before its clock starts and its batch size is the best of several; `evaluate` reads,
decodes and scores. The rest is everything else on the page, without the model on either side; Python makes the
numbers, the bootstrap by event (with as many resamples as --resamples says, scaled to 2,000) and the ten figures as SVG, PNG and PDF.
The peak memory is that of `evaluate`.
"""
import argparse, io, pathlib, re, resource, subprocess, tempfile, time
import numpy as np
import onnxruntime as ort
import pyarrow.dataset as ds
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parents[2]


def python_scores(session, images, batch):
    start = time.perf_counter()
    for i in range(0, len(images), batch):
        session.run(None, {"image": images[i : i + batch]})
    return len(images) / (time.perf_counter() - start)


def evaluate(args, output):
    command = [ROOT / "target/release/evaluate", "--model", args.model, "--data", args.data, "--output", output,
               "--device", "cpu", "--threads", str(args.threads), "--threshold", "0.5", "--overwrite"]
    start = time.perf_counter()
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    total = time.perf_counter() - start
    scoring = float(re.search(r"scored in ([0-9.]+) s", log)[1])
    return scoring, total - scoring


def python_rest(report, resamples):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn import metrics as m
    from sklearn.calibration import calibration_curve
    start = time.perf_counter()
    t = pq.read_table(report / "predictions.parquet").to_pandas()
    y, s, e = t.is_main_track.to_numpy(), t.score.to_numpy(), t.cluster_energy.to_numpy()
    for score, cut in [(s, 0.5), (e, 10.5)]:
        m.classification_report(y, score >= cut, output_dict=True)
        for f in (m.balanced_accuracy_score, m.matthews_corrcoef):
            f(y, score >= cut)
        m.roc_auc_score(y, score), m.average_precision_score(y, score)
    m.log_loss(y, s), m.brier_score_loss(y, s)
    numbers = time.perf_counter() - start
    groups = list(t.groupby(["source", "event"], observed=True).indices.values())
    random = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(resamples):
        rows = np.concatenate([groups[g] for g in random.integers(0, len(groups), len(groups))])
        for score, cut in [(s, 0.5), (e, 10.5)]:
            m.f1_score(y[rows], score[rows] >= cut), m.roc_auc_score(y[rows], score[rows])
    bootstrap = (time.perf_counter() - start) / resamples * 2000
    start = time.perf_counter()
    for k in range(10):
        figure, axes = plt.subplots(figsize=(6.2, 4))
        for score in (s, e):
            if k % 5 == 0:
                axes.plot(*m.roc_curve(y, score)[:2])
            elif k % 5 == 1:
                axes.plot(*m.precision_recall_curve(y, score)[:2])
            elif k % 5 == 2:
                axes.hist(score, 50, log=True)
            elif k % 5 == 3:
                axes.plot(*calibration_curve(y, s, n_bins=10))
            else:
                axes.errorbar(range(10), range(10), range(10))
        for kind in ("svg", "png", "pdf"):
            figure.savefig(io.BytesIO(), format=kind, dpi=200)
        plt.close(figure)
    return numbers, bootstrap, time.perf_counter() - start


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--rows", type=int, default=20000, help="rows that Python scores")
parser.add_argument("--resamples", type=int, default=20)
args = parser.parse_args()

table = ds.dataset(args.data, exclude_invalid_files=True).head(args.rows, columns=["image"])
column = table["image"].combine_chunks()
storage = getattr(column, "storage", column)
options = ort.SessionOptions()
options.intra_op_num_threads = args.threads
session = ort.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
shape = session.get_inputs()[0].shape[1:]
images = storage.flatten().to_numpy().reshape(-1, *shape)
best = max((8, 16, 32, 64, 128, 256, 512), key=lambda b: python_scores(session, images[:4096], b))
with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / "report"
    for _ in range(args.rounds):
        theirs = python_scores(session, images, best)
        scoring, rest = evaluate(args, report)
        rows = pq.read_metadata(report / "predictions.parquet").num_rows
        ours = rows / scoring
        print(f"scores: evaluate {ours:.0f}/s with reading, onnxruntime {theirs:.0f}/s without (batch {best}): x{ours / theirs:.2f}")
        numbers, bootstrap, figures = python_rest(report, args.resamples)
        total = numbers + bootstrap + figures
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"rest, {rows} rows: evaluate {rest:.2f} s; Python {total:.1f} s (numbers {numbers:.2f}, 2,000 resamples {bootstrap:.1f}, 10 figures {figures:.1f}): x{total / rest:.1f}; peak memory {peak:.0f} MiB")
