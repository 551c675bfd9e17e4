"""Times `evaluate` against Python: scores against onnxruntime alone, all else against scikit-learn and matplotlib.

Usage: python scripts/bench/evaluate.py MODEL SPLIT/test [--threads 2] [--rounds 3]
       python scripts/bench/evaluate.py MODEL --simulate 1000000 --work DIR      simulates and prepares the clusters first
       python scripts/bench/evaluate.py MODEL SPLIT/test --stages --device cuda:0 --threads 16

Needs onnxruntime, pyarrow, scikit-learn, matplotlib. The two sides take turns, so that a busy machine slows both.
Python's clock runs only while onnxruntime scores, not while its images are read (10,000 at a time), and its batch size
is the best of several; `evaluate` reads, decodes and scores. The rest is everything else on the page, without the model
on either side; Python makes the numbers, the bootstrap by event (with as many resamples as --resamples says, scaled to
2,000) and the ten figures as SVG, PNG and PDF. The peak memory is that of `evaluate`.

--simulate N writes some 4 kB a cluster to DIR, which are removed once they are prepared, and 250 bytes that stay: the
same command takes them again. A production's files have images of 128 x 16.

--stages needs nothing but the programs (`cargo build --release -p evaluate --examples`): it prints the rates of
reading alone, of the sessions alone with the images in memory, and of both, and so what binds.
"""
import argparse, io, json, pathlib, re, resource, shutil, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "target/release"


def simulated(work, clusters):
    """A test split of so many clusters, made unless it is there."""
    split = work / f"test-{clusters}"
    if not (split / "manifest.json").exists():
        work.mkdir(parents=True, exist_ok=True)
        files, config = work / "simulated", work / "config.json"
        config.write_text(json.dumps({"plane": "X", "model_parameters": {"input_shape": [128, 16, 1]}}))
        options = ["--clusters", str(clusters), "--seed", "8", "--planes", "X"]
        subprocess.run([PROGRAMS / "simulate", "--output", files, *options], check=True)
        options = ["--only", "test", "--duplicates", "keep"]
        subprocess.run([PROGRAMS / "prepare", "--config", config, "--input", files, "--output", split, *options], check=True)
        shutil.rmtree(files)
    return split / "test"


def images(data, rows, shape):
    """Images from the first on, 10,000 at a time; all of them if `rows` is 0."""
    import pyarrow.dataset as ds
    left = rows or sys.maxsize
    for batch in ds.dataset(data, exclude_invalid_files=True).to_batches(columns=["image"], batch_size=10000, batch_readahead=1, fragment_readahead=1):
        column = batch.column(0)
        found = getattr(column, "storage", column).flatten().to_numpy().reshape(-1, *shape)[:left]
        left -= len(found)
        if len(found):
            yield found
        if not left:
            return


def python_scores(session, blocks, batch):
    """Clusters a second; the clock stands still while images are read."""
    seconds = rows = 0
    for block in blocks:
        start = time.perf_counter()
        for i in range(0, len(block), batch):
            session.run(None, {"image": block[i : i + batch]})
        seconds += time.perf_counter() - start
        rows += len(block)
    return rows / seconds


def whole_images(args):
    return ["--whole-images"] if args.whole_images else []


def evaluate(args, output):
    command = [PROGRAMS / "evaluate", "--model", args.model, "--data", args.data, "--output", output,
               "--device", args.device, "--threads", str(args.threads), "--threshold", "0.5", "--overwrite", *whole_images(args)]
    start = time.perf_counter()
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    total = time.perf_counter() - start
    scoring = float(re.search(r"scored in ([0-9.]+) s", log)[1])
    return scoring, total - scoring


def python_rest(report, resamples):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    import pyarrow.parquet as pq
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


def compare(args):
    import onnxruntime as ort
    import pyarrow.parquet as pq
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = ort.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    some = list(images(args.data, 4096, shape))
    best = max((8, 16, 32, 64, 128, 256, 512), key=lambda b: python_scores(session, some, b))
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report"
        for _ in range(args.rounds):
            theirs = python_scores(session, images(args.data, args.rows, shape), best)
            scoring, rest = evaluate(args, report)
            rows = pq.read_metadata(report / "predictions.parquet").num_rows
            ours = rows / scoring
            print(f"scores: evaluate {ours:.0f}/s with reading, onnxruntime {theirs:.0f}/s without (batch {best}): x{ours / theirs:.2f}", flush=True)
            if args.scores_only:
                continue
            numbers, bootstrap, figures = python_rest(report, args.resamples)
            total = numbers + bootstrap + figures
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"rest, {rows} rows: evaluate {rest:.2f} s; Python {total:.1f} s (numbers {numbers:.2f}, 2,000 resamples {bootstrap:.1f}, 10 figures {figures:.1f}): x{total / rest:.1f}; peak memory {peak:.0f} MiB", flush=True)


def stages(args):
    command = [PROGRAMS / "examples/stages", "--model", args.model, "--data", args.data, "--device", args.device,
               "--threads", str(args.threads), *(["--batch-size", str(args.batch_size)] if args.batch_size else []), *whole_images(args)]
    for number in range(args.rounds):
        print(f"round {number + 1}", flush=True)
        subprocess.run(command, check=True)


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data", nargs="?")
parser.add_argument("--simulate", type=int, metavar="N", help="make a test split of N clusters in --work and take it")
parser.add_argument("--work", type=pathlib.Path, metavar="DIR", help="folder for the simulated clusters")
parser.add_argument("--stages", action="store_true", help="rates of reading, of scoring, and of both; nothing of Python")
parser.add_argument("--scores-only", action="store_true", help="leave out the rest, which needs scikit-learn and matplotlib")
parser.add_argument("--device", default="cpu", help="of `evaluate`; Python's is the CPU")
parser.add_argument("--batch-size", type=int, help="of --stages")
parser.add_argument("--whole-images", action="store_true", help="as `evaluate` has it: not at active sites")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--rows", type=int, default=20000, help="rows that Python scores; 0 for all")
parser.add_argument("--resamples", type=int, default=20)
args = parser.parse_args()
if bool(args.simulate) == bool(args.data) or bool(args.simulate) != bool(args.work):
    parser.error("give a test split, or --simulate N with --work DIR")
if args.simulate:
    args.data = simulated(args.work, args.simulate)
stages(args) if args.stages else compare(args)
