#!/usr/bin/env python3
"""compute-sanitizer's tools over the GPU steps of a few random shapes; scripts/bench/sanitize.sh sets all up and calls this.

Usage: sanitize.py --program GPU_SHAPES --output DIR [--tools memcheck,racecheck,initcheck,synccheck] [--shapes 2] [--filters 64]
                   [--batch 128] [--precisions f32,fp16] [--seconds 65] [--all-kernels]

Prints a line for each tool and precision: errors found (in our kernels, and in those of the libraries), seconds, and whether the test
itself passed. DIR gets the table (sanitize.md), what was said (sanitize.log) and each tool's whole output (TOOL-PRECISION.log).

Kernels of cuBLAS and ONNX Runtime run there too. racecheck and synccheck look at a kernel alone, so they are given the names of ours
(read from train/src/engine/cuda/*.cu); --all-kernels takes that back. initcheck must see what the others write, or it would call that
uninitialised; so it always sees all kernels, and its findings are told apart by the name in each.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess
import time

from bench_log import Log

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENGINE = ROOT / "train/src/engine/cuda"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Tools that need not see other kernels to judge ours.
FILTERED = ("racecheck", "synccheck")
# Findings written down: libraries may read the unwritten end of a buffer in every thread, and ours should be seen behind that.
PRINTED = 200_000
BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
KERNEL = re.compile(rf"__global__\s+{BOUNDS}void\s+{BOUNDS}([\w#]+)\s*\(")
MACRO = re.compile(r"^#define\s+(\w+)\(([^)]*)\)((?:.*\\\n)*.*)$", re.MULTILINE)


def kernels(folder):
    """Names of the kernels in the sources, those that macros make included."""
    names = set()
    for path in sorted(folder.glob("*.cu")):
        text = path.read_text()
        rest = text
        for macro, parameters, body in MACRO.findall(text):
            rest = rest.replace(body, "")
            parameters = [parameter.strip() for parameter in parameters.split(",")]
            for pattern in KERNEL.findall(body):
                for given in re.findall(rf"^\s*{macro}\(([^)]*)\)", text, re.MULTILINE):
                    values = dict(zip(parameters, (value.strip() for value in given.split(","))))
                    names.add("".join(values.get(word, word) for word in pattern.split("##")))
        names.update(KERNEL.findall(rest))
    return sorted(names)


def options_of(sanitizer):
    """Options that this version knows."""
    return set(re.findall(r"--[\w-]+", subprocess.run([sanitizer, "--help"], check=True, stdout=subprocess.PIPE, text=True).stdout))


def found_in(text, ours):
    """Findings by kernel, and the number in the tool's summary; none if it came to no summary."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)", text)
    # `at NAME+0x70` or `at NAME(int *)+0x70`, in a line of its own; for a race `... between Write access at NAME+0x90`.
    places = re.findall(r"^=+ +(?:.* between \w+ access )?at (?:void )?([\w:~<>, ]+?)(?:\(.*\))?\+0x[0-9a-f]+", text, re.MULTILINE)
    counts = collections.Counter(name if name in ours else "libraries" for name in places)
    return counts, int(summary[1]) if summary else None


class Run:
    def __init__(self, args):
        self.args, self.log = args, Log(args.output, "sanitize")
        self.ours = kernels(ENGINE)
        if not self.ours:
            raise SystemExit(f"no kernel found in {ENGINE}: the filters would be empty")
        self.known = options_of(args.sanitizer)
        self.log.say(f"our kernels: {', '.join(self.ours)}")

    def command(self, tool):
        options = ["--tool", tool, "--print-limit", PRINTED, "--show-backtrace", "device", "--check-exit-code", "no"]
        if tool in FILTERED and not self.args.all_kernels:
            name = "--kernel-name" if "--kernel-name" in self.known else "--kernel-regex"
            options += [word for kernel in self.ours for word in (name, f"kne={kernel}")]
        if tool == "initcheck" and "--check-api-memory-access" in self.known:
            # Whole blocks are copied whose ends nobody has written, and nobody reads.
            options += ["--check-api-memory-access", "no"]
        if tool == "memcheck" and "--report-api-errors" in self.known:
            # Libraries try calls that may fail.
            options += ["--report-api-errors", "explicit"]
        return [self.args.sanitizer, *options, self.args.program, "--exact", "--nocapture", self.args.test]

    def run(self, tool, precision):
        settings = {
            "MTID_GPU_SHAPES": self.args.shapes,
            "MTID_GPU_FILTERS": self.args.filters,
            "MTID_GPU_BATCH": self.args.batch,
            "MTID_GPU_PRECISION": precision,
            # The tools keep their own account of the memory, for which there must be room.
            "MTID_GPU_POISON": 0,
        }
        path = self.args.output / f"{tool}-{precision}.log"
        command = [str(word) for word in self.command(tool)]
        self.log.say("$ " + " ".join([*(f"{name}={value}" for name, value in settings.items()), *command]))
        begin = time.time()
        with path.open("w") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {name: str(value) for name, value in settings.items()},
                start_new_session=True,
            )
            try:
                child.wait(self.args.seconds)
                late = False
            except subprocess.TimeoutExpired:
                late = True
            finally:
                if child.poll() is None:
                    # The tool and the program under it.
                    os.killpg(child.pid, 9)
                    child.wait()
        seconds = time.time() - begin
        text = path.read_text(errors="replace")
        counts, total = found_in(text, self.ours)
        shapes = len(re.findall(r"^\w+, batch \d+ of \d+ rows", text, re.MULTILINE))
        if "SKIPPED" in text:
            test = "skipped: no GPU"
        else:
            test = "passed" if "test result: ok. 1 passed" in text else "stopped" if late else "FAILED"
        mine = sum(count for name, count in counts.items() if name != "libraries")
        errors = f"{'at least ' if total is None else ''}{total if total is not None else sum(counts.values())}"
        where = ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "–"
        filtered = "ours" if tool in FILTERED and not self.args.all_kernels else "all"
        limit = f"; the limit of {self.args.seconds:.0f} s was reached" if late else ""
        if sum(counts.values()) >= PRINTED:
            where += f" (only the first {PRINTED:,})"
        self.log.table(f"| {tool} | {precision} | {filtered} | {errors} | {mine} | {where} | {shapes} of {self.args.shapes}, {test} | {seconds:.0f} s{limit} |")

    def all(self):
        columns = ["tool", "precision", "kernels", "errors", "of these in ours", "where", "shapes that were compared", "time"]
        self.log.table("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        for tool in self.args.tools.split(","):
            for precision in self.args.precisions.split(","):
                self.run(tool, precision)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, required=True, help="the test binary `gpu_shapes`")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--sanitizer", default="compute-sanitizer")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--precisions", default="f32,fp16")
    parser.add_argument("--shapes", type=int, default=2)
    parser.add_argument("--filters", type=int, default=64, help="most filters of a shape")
    parser.add_argument("--batch", type=int, default=128, help="most rows of a batch")
    parser.add_argument("--seconds", type=float, default=65, help="limit for each tool and precision")
    parser.add_argument("--all-kernels", action="store_true", help="racecheck and synccheck look at the libraries' kernels too")
    parser.add_argument("--test", default="random_shapes_take_the_cpus_steps_on_poisoned_memory")
    args = parser.parse_args()
    if unknown := set(args.tools.split(",")) - set(TOOLS):
        parser.error(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    Run(args).all()


if __name__ == "__main__":
    main()
