"""A whole search in Python: Optuna's TPE over the space of a study, every trial trained by PyTorch on the device."""

import contextlib
import gc
import json
import multiprocessing
import os
import tempfile
import time
import traceback
from pathlib import Path

import torch

import peer_files
from torch_net import allow_tf32
from torch_train import SHAPE, Way, f1_at, load, network, scores, train

RANGES = ("learning_rate", "decay_rate")
KNOWN = {*SHAPE, *RANGES, "batch_size"}
STOPPING = {"monitor": "val_loss", "patience": 10, "min_delta": 0.0, "restore_best_weights": True}


def read_study(path):
    """The experiment, space, seed and budget of a study folder or of a config file."""
    path = Path(path)
    if path.is_dir():
        study = json.loads((path / "study.json").read_text())
        experiment, space, seed, budget = (study[key] for key in ("experiment", "space", "seed", "budget"))
    else:
        config = json.loads(path.read_text())
        experiment = config["model_parameters"]
        space, seed = experiment["space_options"], config.get("dataset_parameters", {}).get("random_seed", 42)
        budget = experiment["hp_max_evals"]
    unknown = set(space) - KNOWN
    if unknown:
        raise SystemExit(f"{path}: no such parameter here: {', '.join(sorted(unknown))}")
    experiment = experiment | {"early_stopping": STOPPING | experiment.get("early_stopping", {})}
    return experiment, space, seed, budget


def suggest(trial, space):
    """A point of the space; the forms of an option are those of `space_options`."""
    point = {}
    for name, option in space.items():
        if not isinstance(option, (list, dict)):
            point[name] = option
            continue
        if isinstance(option, list):
            option = {"uniform": [min(option), max(option)]} if name in RANGES else {"choice": option}
        if "when" in option:
            raise SystemExit(f"parameter {name}: `when` is not known here")
        (form, values), = option.items()
        if form == "choice":
            point[name] = trial.suggest_categorical(name, values)
        elif form == "int":
            point[name] = trial.suggest_int(name, *values)
        else:
            point[name] = trial.suggest_float(name, *values, log=form == "log_uniform")
    return point


def describe(point):
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in point.items())


class Search:
    """What each worker needs; the splits are read once by each."""

    def __init__(self, args, folder, deadline):
        self.args, self.folder, self.deadline = args, Path(folder), deadline
        self.experiment, self.space, seed, self.budget = read_study(args.study)
        self.seed = seed if args.seed is None else args.seed
        self.way = Way(args.precision, args.compile)
        self.objective = self.experiment["objective"]
        allow_tf32(args.precision != "f32")

    def load(self, split):
        scale = 0.001 if self.experiment["normalization"] == "scale" else 1.0
        return load(self.args.data, split, scale, self.args.device, self.way.kind)

    def study(self, worker=0):
        # Optuna is needed here alone, and not to finish what was stopped.
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(self.folder / "journal.log")))
        seed = self.seed + worker
        if self.args.sampler == "random":
            sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=self.args.workers > 1)
        direction = "minimize" if self.objective == "val_loss" else "maximize"
        return optuna.create_study(storage=storage, sampler=sampler, direction=direction, study_name="peer", load_if_exists=True)

    def trial(self, number, point, splits):
        """Train a point and write down what came of it."""
        torch.manual_seed(self.seed + number)
        # The last trial's memory goes back to the GPU, which several processes share.
        gc.collect()
        if self.args.device == "cuda":
            torch.cuda.empty_cache()
        report = lambda epoch, *values: peer_files.add_progress(self.folder, time.time(), number, epoch, *values)
        found = train(point, self.experiment, splits, self.way, self.deadline, report)
        rows = len(splits["train"][1])
        print(
            f"trial {number}: {describe(point)}: {found.epochs} epochs, best {found.best_epoch}, val F1 {found.val_f1:.4f}, "
            f"{found.seconds:.1f} s ({found.start_seconds:.1f} to start, {found.validation_seconds:.1f} of validation), "
            f"{rows * found.epochs / (found.seconds - found.start_seconds):.0f} samples/s with validation"
            + (", not compiled" if self.way.compiled and not found.compiled else "")
            + ("" if found.in_time else ", OUT OF TIME"),
            flush=True,
        )
        if found.in_time:
            torch.save(found.weights, peer_files.weights_of(self.folder, number))
        numbers = {name: value for name, value in vars(found).items() if name != "weights"}
        record = {"params": point, "value": getattr(found, self.objective), "ended": time.time()} | numbers
        peer_files.write_trial(self.folder, number, record | {"state": "complete" if found.in_time else "late"})
        return found

    def work(self, worker=0):
        """Run trials until the budget or the time is spent."""
        import optuna

        splits = {split: self.load(split) for split in ("train", "validation")}
        print(f"worker {worker}: data on {self.args.device} after {time.time() - self.args.begin:.1f} s", flush=True)

        def objective(trial):
            point = suggest(trial, self.space)
            try:
                found = self.trial(trial.number, point, splits)
            except (FloatingPointError, RuntimeError) as error:
                # A loss that is no number, or a GPU without room: the trial's end, not the search's.
                print(f"trial {trial.number}: {describe(point)}: failed: {error}", flush=True)
                traceback.print_exc()
                peer_files.write_trial(self.folder, trial.number, {"params": point, "state": "failed", "error": repr(error)})
                return float("nan")
            if not found.in_time:
                trial.study.stop()
                raise optuna.TrialPruned
            return getattr(found, self.objective)

        done = optuna.study.MaxTrialsCallback(self.budget, states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING))
        study = self.study(worker)
        study.optimize(objective, self.budget, callbacks=[done] if self.args.workers > 1 else [])

    def finish(self, seconds=None):
        """The numbers of the whole search so far, and the best model's F1 on the test split; written to `report.json` too."""
        complete, late, failed = (peer_files.trials(self.folder, state) for state in ("complete", "late", "failed"))
        epochs = lambda some: sum(trial["epochs"] for trial in some)
        name = torch.cuda.get_device_name() if self.args.device == "cuda" else "the CPU"
        print(
            f"PyTorch {torch.__version__} on {name}, {self.args.precision}{', compiled' if self.args.compile else ''}, "
            f"{self.args.workers} workers: {len(complete)} trials complete ({epochs(complete)} epochs), {len(late)} under way "
            f"({epochs(late)} epochs), {len(failed)} failed" + (f"; {seconds:.1f} s" if seconds else "")
        )
        if not complete:
            raise SystemExit("no trial is complete; give it more time")
        best = peer_files.best(complete, self.objective)
        images, labels = self.load("test")
        point = best["params"]
        net = network(point, *images.shape[2:], images.device)
        net.load_state_dict(torch.load(peer_files.weights_of(self.folder, best["number"]), map_location=images.device))
        own, balanced = f1_at(scores(net, images, self.way), labels, best["threshold"])
        print(f"best: trial {best['number']}, val F1 {best['val_f1']:.4f}, {describe(point)}")
        print(f"test F1 at the validation threshold: {own:.4f}; weighted to 50:50 {balanced:.4f}; {len(labels)} clusters")
        report = {"trial": best["number"], "val_f1": best["val_f1"], "test_f1": own, "test_f1_balanced": balanced, "device": name}
        (self.folder / "report.json").write_text(json.dumps(report))


def work(args, folder, deadline, worker):
    Search(args, folder, deadline).work(worker)


def finish(args):
    """The report on a search that ended or was stopped."""
    Search(args, args.output, float("inf")).finish()


def folder_of(args):
    """The folder of a search: the one that was asked for, which must be new, or one that goes with the process."""
    if not args.output:
        return tempfile.TemporaryDirectory()
    args.output.mkdir(parents=True, exist_ok=True)
    if (args.output / "journal.log").exists():
        raise SystemExit(f"{args.output} holds a search already; name another folder, or remove it")
    return contextlib.nullcontext(args.output)


def run(args):
    """The search, in this process or in several that share a journal."""
    args.begin = time.time()
    deadline = args.begin + args.seconds
    with folder_of(args) as folder:
        if args.compile:
            # Workers share what was tuned, and the cores, while they compile at the same time. Inductor reads these when it starts.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((Path(folder) / "inductor").resolve()))
            threads = max(1, len(os.sched_getaffinity(0)) // args.workers)
            os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))
        if args.workers == 1:
            work(args, folder, deadline, 0)
        else:
            Search(args, folder, deadline).study()
            spawn = multiprocessing.get_context("spawn")
            workers = [spawn.Process(target=work, args=(args, folder, deadline, i)) for i in range(args.workers)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if lost := sum(bool(worker.exitcode) for worker in workers):
                print(f"{lost} of {len(workers)} workers failed; their messages are above", flush=True)
        (Path(folder) / "searched").write_text(str(time.time()))
        Search(args, folder, deadline).finish(time.time() - args.begin)
