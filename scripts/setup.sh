#!/usr/bin/env bash
# Fetch ONNX Runtime, the one library that the programs load at run time.
#
# Usage: scripts/setup.sh [--gpu] [--with-cuda]
#
#   (no option)   the CPU build, into .cache/onnxruntime/1.31.1-cpu
#   --gpu         the CUDA 13 build (about 260 MB), into .cache/onnxruntime/1.31.1-gpu
#   --with-cuda   with --gpu: also CUDA 13 and cuDNN 9 (about 1.5 GB), for machines that have only the driver
#
# The library comes from its PyPI wheel, by pip, at a pinned version with a checked hash. Nothing is
# installed into your Python. A second call does nothing. MTID_PYTHON names another Python to use.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

gpu='' with_cuda=''
for argument; do
  case $argument in
    --gpu) gpu=1 ;;
    --with-cuda) with_cuda=1 ;;
    -h | --help) help_of "$0"; exit ;;
    *) bad_usage "unknown argument \`$argument\`" "scripts/setup.sh --help says what there is" ;;
  esac
done
if [[ -n $with_cuda && -z $gpu ]]; then bad_usage "--with-cuda goes with --gpu"; fi

[[ $(uname -s) == Linux ]] || die "this script knows Linux only" \
  "elsewhere, get ONNX Runtime $ort_version and set ORT_DYLIB_PATH to its library"
machine=$(uname -m)
case $machine in
  x86_64) ;;
  aarch64) if [[ -n $gpu ]]; then
    die "there is no pinned CUDA build of ONNX Runtime for aarch64" \
      "get one of version $ort_version and set ORT_DYLIB_PATH to its libonnxruntime.so"
  fi ;;
  *) die "no build of ONNX Runtime is known for this processor ($machine)" \
    "build version $ort_version and set ORT_DYLIB_PATH to its libonnxruntime.so" ;;
esac

# Everything is unpacked beside its place and renamed into it, so that a killed set-up leaves nothing half.
work=''
trap 'if [[ -n $work ]]; then rm -rf "$work"; fi' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
start_work() {
  find_python 8
  need_pip
  mkdir -p "$cache/onnxruntime"
  work=$(mktemp -d "$cache/onnxruntime/.unpack.XXXXXX")
  mkdir "$work/wheels" "$work/lib"
}

# download REQUIREMENTS: wheels for Python 3.12, whatever Python runs pip; only their libraries are used.
download() {
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.12 --implementation cp --abi cp312 --abi none \
    --platform "manylinux_2_28_$machine" --platform "manylinux_2_27_$machine" --platform "manylinux_2_17_$machine" \
    --platform "manylinux2014_$machine" --platform "manylinux_2_12_$machine" --platform "manylinux2010_$machine" \
    --platform "manylinux_2_5_$machine" --platform "manylinux1_$machine" \
    --dest "$work/wheels" --requirement "$1" ||
    die "pip could not download what $1 lists" \
      "without network here, run this script where there is some and copy \`.cache/onnxruntime\`" \
      "or set ORT_DYLIB_PATH to a libonnxruntime.so of version $ort_version"
}

# unpack PATTERN: the files of the wheels whose path matches, without their folders, into $work/lib.
unpack() {
  "$python" - "$work/wheels" "$work/lib" "$1" <<'PY' || die "could not unpack the wheels"
import fnmatch, pathlib, shutil, sys, zipfile

wheels, target, pattern = sys.argv[1:]
for wheel in sorted(pathlib.Path(wheels).glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if fnmatch.fnmatch(name, pattern):
                path = pathlib.Path(target) / pathlib.PurePosixPath(name).name
                with archive.open(name) as source, open(path, "wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
                path.chmod(0o755)
PY
}

# finish FOLDER: rename what was unpacked into its place; another set-up may have been faster.
finish() {
  mv -T "$work/lib" "$1" 2>/dev/null || [[ -d $1 ]] || die "could not create \`$1\`"
  rm -rf "$work"
  work=''
}

flavour=cpu
if [[ -n $gpu ]]; then flavour=gpu; fi
place=$cache/onnxruntime/$ort_version-$flavour
if [[ -e $place/libonnxruntime.so ]]; then
  say "ONNX Runtime $ort_version ($flavour): up to date"
else
  say "ONNX Runtime $ort_version ($flavour): fetching"
  start_work
  download "$root/scripts/requirements-onnxruntime${gpu:+-gpu}.txt"
  unpack 'onnxruntime/capi/libonnxruntime*.so*'
  rm -f "$work/lib/libonnxruntime_providers_tensorrt.so"
  mv "$work/lib/libonnxruntime.so.$ort_version" "$work/lib/libonnxruntime.so"
  finish "$place"
  say "ONNX Runtime $ort_version ($flavour): ready in $place"
fi
if [[ -z $gpu ]]; then exit; fi

if [[ -n $with_cuda && ! -d $place/cuda ]]; then
  say "CUDA 13 and cuDNN 9: fetching (about 1.5 GB)"
  start_work
  download "$root/scripts/requirements-cuda.txt"
  unpack 'nvidia/*/lib/*.so*'
  finish "$place/cuda"
  say "CUDA 13 and cuDNN 9: ready in $place/cuda"
fi

# Say now what would otherwise be an obscure message of the dynamic linker at the first training.
use_library
missing=$(ldd "$place/libonnxruntime_providers_cuda.so" | awk '/not found/ { print $1 }')
# cuDNN and NVRTC are loaded later, so ldd does not list them.
IFS=: read -ra folders <<<"${LD_LIBRARY_PATH:-}"
for library in libcudnn.so.9 libnvrtc.so.13; do
  found=$(ldconfig -p 2>/dev/null | awk -v name="$library" '$1 == name { print $NF }')
  for folder in "${folders[@]}"; do
    if [[ -e $folder/$library ]]; then found=$folder/$library; fi
  done
  if [[ -z $found ]]; then missing+=$'\n'$library; fi
done
if grep -q libcuda.so.1 <<<"$missing"; then
  say "warning: no NVIDIA driver here (libcuda.so.1); the GPU build works only on a machine with one"
  missing=$(grep -v libcuda.so.1 <<<"$missing" || true)
fi
missing=$(tr '\n' ' ' <<<"$missing" | sed 's/^ *//; s/ *$//')
if [[ -n $missing ]]; then
  say "warning: libraries of CUDA 13 and cuDNN 9 that were not found here: $missing"
  say "  where the machine has them, add their folder to LD_LIBRARY_PATH (on clusters often: module load cuda cudnn)"
  say "  else fetch them (about 1.5 GB): scripts/setup.sh --gpu --with-cuda"
fi
