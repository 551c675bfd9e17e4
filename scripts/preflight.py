"""What can be known to fail before a job waits in a queue: config, input, disk, library, GPU. Needs only Python 3.8.

Prints nothing if all is well, else one `error:` a finding, each with the way out, and exits with 1.
"""

import argparse
import ctypes
import glob
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

LIBRARY = "libonnxruntime.so"
GIB = 1 << 30
# Bytes of splits per byte of NPZ files: measured 0.03 on simulated clusters (docs/SCALING.md); real ones have more
# occupied pixels, and compressed input is smaller.
SPLITS_PER_INPUT = 0.3
# A trial keeps last weights, best weights, two moments and the exported model.
COPIES_PER_TRIAL = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--config", type=pathlib.Path, required=True, help="the run's derived config")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--root", type=pathlib.Path, required=True, help="the project's folder, for messages")
    parser.add_argument("--launcher", choices=("local", "slurm", "htcondor"), required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--ort-version", required=True)
    parser.add_argument("--stages", required=True, help="stages that are to run, separated by blanks")
    arguments = parser.parse_args()
    stages = arguments.stages.split()
    config = json.loads(arguments.config.read_text(encoding="utf-8"))
    findings = []
    if "study" in stages:
        findings += check_config(arguments)
    if "prepare" in stages:
        findings += check_input(arguments, config)
    if not findings:  # the sizes are only known of a sound config
        findings += check_disk(arguments, config, stages)
    if "train" in stages or "evaluate" in stages:
        findings += check_library(arguments)
        findings += check_gpu(arguments)
    for what, *hints in findings:
        print(f"error: {what}", *(f"  {hint}" for hint in hints), sep="\n", file=sys.stderr)
    if findings:
        sys.exit(1)


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def check_config(arguments):
    """The stages' own reading of the config: types, ranges, near-miss keys."""
    done = run(arguments.bin / "search", "create", "--config", arguments.config, "--study", arguments.out / "study", "--dry-run")
    if done.returncode == 0:
        return []
    reason = done.stderr.strip().splitlines() or [f"`search create --dry-run` ended with {done.returncode}"]
    return [(re.sub(r"^error: ", "", reason[0]), *reason[1:], "correct the config or the setting, then give the same command again")]


# --- Input ----------------------------------------------------------------------------------------


def check_input(arguments, config):
    folders = config.get("data_directories", [])
    closed = [folder for folder in folders if not os.access(folder, os.R_OK | os.X_OK)]
    if closed:
        return [(f"can't read the folder `{closed[0]}`", "give another with DATA=DIR, or mend its permissions (`ls -ld`)")]
    first = first_file(config)
    if first is None:
        return []  # other names than usual; `prepare` says what it looked for
    if not os.access(first, os.R_OK):
        return [(f"can't read `{first}`", "mend its permissions (`ls -l`), or leave its folder out")]
    done = run(arguments.bin / "prepare", "inspect", first)
    found = re.search(r"(\d+) × (\d+)", done.stdout)
    shape = config.get("model_parameters", {}).get("input_shape", [128, 16, 1])
    if done.returncode or not found:
        reason = (done.stderr or done.stdout).strip()
        return [(f"can't make sense of `{first}`", *reason.splitlines(), f"look at it: {arguments.bin / 'prepare'} inspect {first}")]
    height, width = int(found[1]), int(found[2])
    if [height, width] != list(shape[:2]):
        hint = f"set WIDTH={width}" if height == shape[0] else f"set model_parameters.input_shape='[{height}, {width}, 1]'"
        return [(f"`{first}` holds images of {height} × {width}, but `input_shape` of the config says {shape[0]} × {shape[1]}", hint)]
    return []


def input_files(config):
    """The plane's files, in no certain order."""
    plane = config.get("plane", "X")
    other = re.compile(r"plane(?!%s)[UVX](?![a-z])" % re.escape(plane))
    for folder in config.get("data_directories", []):
        for parent, _, names in os.walk(folder, followlinks=True):
            for name in names:
                if name.endswith(".npz") and not other.search(name):
                    if f"plane{plane}" in name or pathlib.Path(parent).name == plane:
                        yield os.path.join(parent, name)


def first_file(config):
    """A file that may hold clusters: an archive of empty arrays has no more than a kibibyte."""
    return next((path for path in input_files(config) if os.path.getsize(path) > 1024), None)


# --- Disk -----------------------------------------------------------------------------------------


def check_disk(arguments, config, stages):
    place = next(folder for folder in (arguments.out, *arguments.out.parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        return [(f"can't write to `{place}`", "give another folder with OUT=DIR")]
    free = shutil.disk_usage(place).free
    splits = sum(map(os.path.getsize, input_files(config))) * SPLITS_PER_INPUT if "prepare" in stages else 0
    trial = trial_bytes(config) if "train" in stages else 0
    trials = trial * config.get("model_parameters", {}).get("hp_max_evals", 25)
    if free < splits + trial:
        need = gib(splits + trial)
        return [(f"`{place}` has {gib(free)} free, but the splits and one trial may need {need}", "make room, or give another folder with OUT=DIR")]
    if free < splits + trials:
        print(f"warning: `{place}` has {gib(free)} free; if all trials were of the largest size they would need {gib(splits + trials)}", file=sys.stderr)
    return []


def trial_bytes(config):
    """Bytes of the largest trial's folder: parameters of `simple_cnn`, see ARCHITECTURE.md."""
    model = config.get("model_parameters", {})
    space = model.get("space_options", {})
    height, width = model.get("input_shape", [128, 16, 1])[:2]
    largest = 0
    for layers in values(space, "n_conv_layers", 2):
        for kernel in values(space, "kernel_size", 3):
            filters, units = max(values(space, "n_filters", 32)), max(values(space, "n_dense_units", 64))
            dense = max(values(space, "n_dense_layers", 2))
            largest = max(largest, parameters(height, width, layers, kernel, filters, dense, units))
    return COPIES_PER_TRIAL * 4 * largest


def values(space, name, default):
    """The whole numbers that a parameter can take; only their size matters here."""
    given = space.get(name, [default])
    if isinstance(given, dict):
        given = next(iter(given.values()), [default])
    given = given if isinstance(given, list) else [given]
    return [int(value) for value in given if isinstance(value, (int, float))] or [default]


def parameters(height, width, layers, kernel, filters, dense, units):
    count, channels = (kernel + 1) * filters, filters
    height -= kernel - 1
    for layer in range(1, layers):
        count += (kernel * channels + 1) * (filters // (layer + 1))
        channels = filters // (layer + 1)
        height, width = (height - kernel + 1) // 2, width // 2
    inputs = max(height, 1) * max(width, 1) * channels
    for layer in range(dense):
        count += (inputs + 1) * (units // (layer + 1))
        inputs = units // (layer + 1)
    return count + inputs + 1


def gib(size):
    return f"{size / GIB:.1f} GiB"


# --- Library and GPU ------------------------------------------------------------------------------


def library(arguments):
    """The library as `shared/src/runtime.rs` finds it, and the places looked at."""
    variable = os.environ.get("ORT_DYLIB_PATH")
    if variable:
        return pathlib.Path(variable), [pathlib.Path(variable)]
    places = []
    for start in (arguments.bin / "train", arguments.out):
        for folder in start.parents if start.name == "train" else (start, *start.parents):
            cache = folder / ".cache/onnxruntime"
            places.append(folder / "lib" / LIBRARY)
            places += [cache / f"{arguments.ort_version}-{flavour}" / LIBRARY for flavour in ("gpu", "cpu")]
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        pattern = os.path.join(os.environ.get(name, "/nonexistent"), "lib/*/site-packages/onnxruntime/capi", f"{LIBRARY}.{arguments.ort_version}")
        places += map(pathlib.Path, glob.glob(pattern))
    return next((place for place in places if place.is_file()), None), places


def check_library(arguments):
    """Load it: a file of the right name can be of another version, or lack its own libraries."""
    found, places = library(arguments)
    setup = f"run once: {arguments.root}/scripts/setup.sh (with --gpu for CUDA), or set ORT_DYLIB_PATH"
    if found is None:
        return [("ONNX Runtime is not set up", setup, f"looked at: {', '.join(map(str, places[:3]))}, …")]
    if not found.is_file():
        return [(f"ORT_DYLIB_PATH names `{found}`, which is no file", "correct or unset it")]
    try:
        base = ctypes.CDLL(str(found)).OrtGetApiBase
        base.restype = ctypes.POINTER(ctypes.c_void_p * 2)
        version = ctypes.CFUNCTYPE(ctypes.c_char_p)(base().contents[1])().decode()
    except (OSError, AttributeError) as reason:
        return [(f"can't load ONNX Runtime from `{found}`: {reason}", setup)]
    number = [tuple(map(int, re.findall(r"\d+", text)[:2])) for text in (version, arguments.ort_version)]
    if number[0] < number[1]:
        return [(f"`{found}` is ONNX Runtime {version}; {arguments.ort_version} or newer is needed", setup)]
    return []


def check_gpu(arguments):
    if not arguments.device.startswith("cuda"):
        return []
    found, _ = library(arguments)
    findings = []
    if found is not None and not found.with_name("libonnxruntime_providers_cuda.so").is_file():
        findings.append((f"DEVICE={arguments.device} is asked for, but `{found}` is a build without CUDA", f"run once: {arguments.root}/scripts/setup.sh --gpu, or use DEVICE=cpu"))
    where = {"local": seen_here, "slurm": seen_by_slurm, "htcondor": seen_by_condor}[arguments.launcher](arguments.device)
    if where:
        findings.append(where)
    return findings


def seen_here(device):
    number = device.partition(":")[2] or "0"
    if os.path.exists(f"/dev/nvidia{number}"):
        return None
    count = len(glob.glob("/dev/nvidia[0-9]*"))
    return (f"DEVICE={device} is asked for, but this machine has {count} NVIDIA GPU(s)", "use DEVICE=cpu, or a machine with a GPU")


def seen_by_slurm(device):
    done = run("sinfo", "--noheader", "--format=%G")
    if "gpu" in done.stdout:
        return None
    return (f"DEVICE={device} is asked for, but no node that `sinfo` lists has a GPU", "use DEVICE=cpu, or name the partition: --partition NAME")


def seen_by_condor(device):
    done = run("condor_status", "-constraint", "TotalGPUs > 0", "-af", "Machine", "-limit", "1")
    if done.returncode == 0 and not done.stdout.strip():
        print(f"warning: DEVICE={device} is asked for, but no machine of the pool shows a GPU now; the jobs wait for one", file=sys.stderr)


if __name__ == "__main__":
    main()
