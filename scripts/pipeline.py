"""What pipeline.sh and pipeline.mk can't do in shell; needs only Python 3.8 and its standard library."""

import argparse
import difflib
import hashlib
import json
import os
import pathlib
import sys

# Setting of the command line -> its place in the config.
PLACES = {
    "PLANE": ("plane",),
    "SEED": ("dataset_parameters", "random_seed"),
    "MAX_SAMPLES": ("dataset_parameters", "max_samples"),
    "TRIALS": ("model_parameters", "hp_max_evals"),
    "EPOCHS": ("model_parameters", "epochs"),
    "BATCH_SIZE": ("model_parameters", "batch_size"),
    "PATIENCE": ("model_parameters", "early_stopping", "patience"),
    "OBJECTIVE": ("model_parameters", "objective"),
    "NORMALIZATION": ("model_parameters", "normalization"),
}


class Problem(Exception):
    """Something that the person at the command line can mend."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command_name", required=True)
    command = commands.add_parser("settings", help="write OUT/config.json and the settings of each stage")
    command.add_argument("--config", type=pathlib.Path, required=True)
    command.add_argument("--from", dest="start", type=pathlib.Path, required=True)
    command.add_argument("--out", type=pathlib.Path, required=True)
    command.add_argument("--want", type=pathlib.Path, required=True)
    command.add_argument("--dry-run", action="store_true")
    command.add_argument("--command", required=True)
    command.add_argument("settings", nargs="*")
    command.set_defaults(run=settings)
    command = commands.add_parser("training-data", help="digest what the training sees of the splits")
    command.add_argument("manifest", type=pathlib.Path)
    command.add_argument("output", type=pathlib.Path)
    command.set_defaults(run=training_data)
    command = commands.add_parser("set-aside-study", help="rename a study that no longer fits")
    command.add_argument("want", type=pathlib.Path)
    command.set_defaults(run=set_aside_study)
    command = commands.add_parser("summary", help="print the numbers of a report")
    command.add_argument("report", type=pathlib.Path)
    command.set_defaults(run=summary)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (Problem, OSError) as problem:
        sys.exit(f"error: {problem}")


def settings(arguments):
    """Derive this run's config, and write for each stage what its result depends on."""
    config = read_json(arguments.config)
    if not isinstance(config, dict):
        raise Problem(f"`{arguments.config}` holds no JSON object")
    given, folders, overrides = {}, [], []
    for setting in arguments.settings:
        key, value = setting.split("=", 1)
        if key == "DATA":
            folders.append(value)
        elif "." in key:
            overrides.append((key, value))
        else:
            given[key] = value
    apply(config, given, overrides)
    config["data_directories"] = data_folders(config, arguments.config, folders, arguments.start)

    inputs = scan(config, arguments)
    model = config.get("model_parameters", {})
    prepare_flags = ("BALANCE_SCOPE", "SPLIT_BY", "DUPLICATES", "ON_BAD_FILE", "MAX_BAD")
    stages = {
        "prepare": {
            "plane": config.get("plane"),
            "data_directories": config["data_directories"],
            "dataset_parameters": config.get("dataset_parameters"),
            "input_shape": model.get("input_shape"),
            "flags": {key: given[key] for key in prepare_flags if key in given},
            "inputs": inputs,
        },
        # Device, workers and threads say how a thing is computed, not what: they redo nothing.
        "study": {
            "model_name": config.get("model_name"),
            "random_seed": config.get("dataset_parameters", {}).get("random_seed"),
            "model_parameters": model,
            "precision": given.get("PRECISION"),
        },
        "train": {},
        "evaluate": {"threshold": given.get("THRESHOLD"), "test": given.get("TEST")},
    }
    for name, content in stages.items():
        write_if_changed(arguments.want / name, to_json(content))
    link(arguments.want / "test", absolute(given["TEST"], arguments.start) if "TEST" in given else arguments.out / "data/test")
    write_if_changed((arguments.want if arguments.dry_run else arguments.out) / "config.json", to_json(config))


def apply(config, given, overrides):
    """Put the settings of the command line into the config."""
    for key, place in PLACES.items():
        if key in given:
            value = given[key]
            put(config, place, int(value) if value.isdigit() else value)
    if "BALANCE" in given:
        put(config, ("dataset_parameters", "balance_data"), given["BALANCE"] != "none")
        put(config, ("dataset_parameters", "balance_method"), given["BALANCE"])
    if "WIDTH" in given:
        shape = config.get("model_parameters", {}).get("input_shape", [128, 16, 1])
        put(config, ("model_parameters", "input_shape"), [shape[0], int(given["WIDTH"]), *shape[2:]])
    for path, text in overrides:
        try:
            value = json.loads(text)
        except ValueError:
            value = text  # a word needs no quotes
        put(config, path.split("."), value)


def put(config, place, value):
    """Set the value at a path of keys; the objects on the way must be there or be missing."""
    for depth, key in enumerate(place[:-1], 1):
        inner = config.setdefault(key, {})
        if not isinstance(inner, dict):
            raise Problem(f"`{'.'.join(place[:depth])}` of the config is no object, so `{'.'.join(place)}` can't be set")
        config = inner
    near = difflib.get_close_matches(place[-1], config, n=1, cutoff=0.8)
    if place[-1] not in config and near:
        raise Problem(f"the config has no `{'.'.join(place)}`; did you mean `{near[0]}`?")
    config[place[-1]] = value


def data_folders(config, config_path, folders, start):
    """The input folders as absolute paths: those of the command line, else the config's."""
    if folders:
        return [str(absolute(folder, start)) for folder in folders]
    return [str(absolute(folder, config_path.parent)) for folder in config.get("data_directories", [])]


def scan(config, arguments):
    """A digest of the names, sizes and times of the NPZ files, so that new files are noticed.

    Once the splits are there the input may be moved away; the last digest then stands.
    """
    folders = config["data_directories"]
    retry = f"{arguments.command} DATA=/folder/with/npz/files"
    if not folders:
        raise Problem(f"no input: neither DATA nor `data_directories` of the config is given; run\n  {retry}")
    missing = [folder for folder in folders if not os.path.isdir(folder)]
    if missing:
        before = arguments.out / ".done/prepare"
        if before.exists() and (arguments.out / "data/manifest.json").exists():
            print(f"warning: `{missing[0]}` is gone; going on with the splits made from it", file=sys.stderr)
            return read_json(before).get("inputs")
        raise Problem(f"there is no folder `{missing[0]}`; run\n  {retry}")
    digest = hashlib.sha256()
    count = 0
    for folder in folders:
        for parent, below, names in os.walk(folder, followlinks=True):
            below.sort()
            for name in sorted(name for name in names if name.endswith(".npz")):
                status = os.stat(os.path.join(parent, name))
                digest.update(f"{parent}/{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
                count += 1
    if count == 0:
        raise Problem(f"no .npz file in {', '.join(f'`{folder}`' for folder in folders)}; run\n  {retry}")
    return f"{count} files {digest.hexdigest()}"


def training_data(arguments):
    """Note what the training sees of the splits, and touch the note only if that changed."""
    manifest = read_json(arguments.manifest)
    # Of one `digest` the study, too, makes sure that it goes on with the data it began with.
    seen = {key: manifest.get(key) for key in ("schema_version", "plane", "height", "width", "digest")}
    write_if_changed(arguments.output, to_json(seen))


def set_aside_study(arguments):
    """Rename `study` if other settings or other training data made it."""
    study, done = pathlib.Path("study"), pathlib.Path(".done/study")
    started = pathlib.Path(".done/study.started")
    if not (study / "study.json").exists() or not started.exists():
        return
    other_data = done.exists() and pathlib.Path(".done/training-data").stat().st_mtime_ns > done.stat().st_mtime_ns
    other_settings = json.dumps(without_budget(read_json(started))) != json.dumps(without_budget(read_json(arguments.want)))
    if not (other_data or other_settings):
        return
    number = 1
    while pathlib.Path(f"study.old-{number}").exists():
        number += 1
    study.rename(f"study.old-{number}")
    reason = "its settings changed" if other_settings else "the training data changed"
    print(f"\nkept the study so far as `study.old-{number}`, since {reason}", file=sys.stderr)


def without_budget(study):
    """A study's settings less the number of trials, which may grow."""
    study["model_parameters"].pop("hp_max_evals", None)
    return study


def summary(arguments):
    """Print the numbers that one looks at first, and where the rest is."""
    report = read_json(arguments.report / "report.json")
    baseline = report.get("baseline", {})
    print()
    print(f"test set: {report.get('n')} clusters, {100 * number(report.get('prevalence')):.1f} % main tracks")
    print(f"{'F1':<22}{'network':>10}{'energy cut':>13}")
    for key, title in (("main_track", "main track"), ("macro", "macro"), ("weighted", "weighted")):
        print(f"  {title:<20}{number(report.get('f1', {}).get(key)):10.4f}{number(baseline.get('f1', {}).get(key)):13.4f}")
    balanced = [part.get("balanced", {}).get("f1", {}).get("main_track") for part in (report, baseline)]
    print(f"  {'main track, 50:50':<20}{number(balanced[0]):10.4f}{number(balanced[1]):13.4f}")
    print(f"report: {(arguments.report / 'report.html').resolve()}")


def number(value):
    return float("nan") if value is None else float(value)


def absolute(path, start):
    return pathlib.Path(os.path.abspath(os.path.join(start, os.path.expanduser(path))))


def read_json(path):
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except ValueError as reason:
        raise Problem(f"`{path}` is not JSON: {reason}") from None


def to_json(value):
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_if_changed(path, text):
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def link(path, target):
    if path.is_symlink() and os.readlink(path) == str(target):
        return
    if path.is_symlink():
        path.unlink()
    path.symlink_to(target)


if __name__ == "__main__":
    main()
