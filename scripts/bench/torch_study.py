"""A whole search in Python: Optuna's TPE over the space of a study, every trial trained by PyTorch on the device."""

import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import optuna
import torch

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
        space, seed = experiment["space_options"], config["dataset_parameters"]["random_seed"]
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
        self.experiment, self.space, self.seed, self.budget = read_study(args.study)
        self.way = Way(args.precision, args.compile)
        self.minimise = self.experiment["objective"] == "val_loss"
        allow_tf32(args.precision != "f32")

    def load(self, split):
        scale = 0.001 if self.experiment["normalization"] == "scale" else 1.0
        return load(self.args.data, split, scale, self.args.device, self.way.kind)

    def study(self, worker=0):
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(self.folder / "journal.log")))
        sampler = optuna.samplers.TPESampler(seed=self.seed + worker, constant_liar=self.args.workers > 1)
        direction = "minimize" if self.minimise else "maximize"
        return optuna.create_study(storage=storage, sampler=sampler, direction=direction, study_name="peer", load_if_exists=True)

    def work(self, worker=0):
        """Run trials until the budget or the time is spent."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        splits = {split: self.load(split) for split in ("train", "validation")}
        rows = len(splits["train"][1])
        print(f"worker {worker}: data on {self.args.device} after {time.time() - self.args.begin:.1f} s", flush=True)

        def objective(trial):
            torch.manual_seed(self.seed + trial.number)
            point = suggest(trial, self.space)
            try:
                found = train(point, self.experiment, splits, self.way, self.deadline)
            except FloatingPointError as error:
                print(f"trial {trial.number}: {describe(point)}: failed: {error}", flush=True)
                return float("nan")
            trial.set_user_attr("epochs", found.epochs)
            trial.set_user_attr("threshold", found.threshold)
            trial.set_user_attr("val_f1", found.val_f1)
            trial.set_user_attr("params", point)
            print(
                f"trial {trial.number}: {describe(point)}: {found.epochs} epochs, best {found.best_epoch}, val F1 {found.val_f1:.4f}, "
                f"{found.seconds:.1f} s, {rows * found.epochs / found.seconds:.0f} samples/s with validation"
                + ("" if found.in_time else ", OUT OF TIME"),
                flush=True,
            )
            if not found.in_time:
                trial.study.stop()
                raise optuna.TrialPruned
            torch.save(found.weights, self.folder / f"{trial.number}.pt")
            return getattr(found, self.experiment["objective"])

        done = optuna.study.MaxTrialsCallback(self.budget, states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING))
        study = self.study(worker)
        study.optimize(objective, self.budget, callbacks=[done] if self.args.workers > 1 else [], gc_after_trial=True)

    def finish(self):
        """The numbers of the whole search, and the best model's F1 on the test split."""
        seconds = time.time() - self.args.begin
        trials = self.study().get_trials(deepcopy=False)
        of = lambda state: [t for t in trials if t.state == state]
        complete, out_of_time, failed = (of(getattr(optuna.trial.TrialState, s)) for s in ("COMPLETE", "PRUNED", "FAIL"))
        epochs = lambda some: sum(t.user_attrs["epochs"] for t in some)
        name = torch.cuda.get_device_name() if self.args.device == "cuda" else "the CPU"
        print(
            f"Optuna {optuna.__version__}, PyTorch {torch.__version__} on {name}, {self.args.precision}"
            f"{', compiled' if self.args.compile else ''}, {self.args.workers} workers: {len(complete)} trials complete "
            f"({epochs(complete)} epochs), {len(out_of_time)} under way ({epochs(out_of_time)} epochs), {len(failed)} failed; {seconds:.1f} s"
        )
        if not complete:
            raise SystemExit("no trial is complete; give more --seconds")
        best = (min if self.minimise else max)(complete, key=lambda t: t.value)
        images, labels = self.load("test")
        point = best.user_attrs["params"]
        net = network(point, *images.shape[2:], images.device)
        net.load_state_dict(torch.load(self.folder / f"{best.number}.pt", map_location=images.device))
        own, balanced = f1_at(scores(net, images, self.way), labels, best.user_attrs["threshold"])
        print(f"best: trial {best.number}, val F1 {best.user_attrs['val_f1']:.4f}, {describe(point)}")
        print(f"test F1 at the validation threshold: {own:.4f}; weighted to 50:50 {balanced:.4f}; {len(labels)} clusters")


def work(args, folder, deadline, worker):
    Search(args, folder, deadline).work(worker)


def run(args):
    """The search, in this process or in several that share a journal."""
    args.begin = time.time()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    deadline = args.begin + args.seconds
    with tempfile.TemporaryDirectory() as folder:
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
            if any(worker.exitcode for worker in workers):
                raise SystemExit("a worker failed")
        Search(args, folder, deadline).finish()
