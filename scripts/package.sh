#!/usr/bin/env bash
# Pack programs, scripts and ONNX Runtime into a tarball that runs where it is unpacked.
#
# Usage: scripts/package.sh [--gpu] [FILE.tar.gz]
#
#   --gpu     with the CUDA build of ONNX Runtime (scripts/setup.sh --gpu), else the CPU build
#   FILE      mt-identifier-VERSION-MACHINE.tar.gz by default
#
# The other machine needs Linux with glibc 2.34 (AlmaLinux 9, Debian 12, Ubuntu 22.04) or newer, bash, GNU Make and
# Python 3.8; no root, no Rust and no network. For a GPU it needs the NVIDIA driver, CUDA 13 and cuDNN 9.
# A program that asks for a newer glibc is refused: build on an older system then (scripts/container/README.md).
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
most_glibc=2.34

flavour=cpu file=''
for argument; do
  case $argument in
    --gpu) flavour=gpu ;;
    -h | --help) help_of "$0"; exit ;;
    -*) bad_usage "unknown argument \`$argument\`" "scripts/package.sh --help says what there is" ;;
    *) file=$argument ;;
  esac
done
build_binaries
library=$cache/onnxruntime/$ort_version-$flavour
[[ -e $library/libonnxruntime.so ]] || die "ONNX Runtime ($flavour) is not set up" "run once: $root/scripts/setup.sh$([[ $flavour == gpu ]] && echo ' --gpu')"
[[ $(command -v objdump strip | wc -l) == 2 ]] || die "no \`objdump\` or \`strip\` found" "install them: \`apt-get install binutils\` or \`dnf install binutils\`"

# newest_glibc FILE: the newest version of glibc that a program or library asks for.
newest_glibc() { objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1 | sed 's/GLIBC_//'; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1)
name=mt-identifier-$version-$(uname -m)
file=$(realpath -m -- "${file:-$name.tar.gz}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
place=$work/$name
mkdir -p "$place"/{bin,lib}

needs=''
for program in prepare search train evaluate simulate; do
  [[ -x $bin/$program ]] || die "\`$bin\` has no program \`$program\`" "cargo build --release --workspace"
  strip -o "$place/bin/$program" "$bin/$program"
  needs+="bin/$program $(newest_glibc "$place/bin/$program")"$'\n'
done
for found in "$library"/*.so*; do
  cp -L "$found" "$place/lib/"
  needs+="lib/$(basename "$found") $(newest_glibc "$found")"$'\n'
done
too_new=$(awk -v most="$most_glibc" 'NF == 2 { split($2, v, "."); split(most, m, "."); if (v[1] > m[1] || (v[1] == m[1] && v[2] > m[2])) print "`" $1 "` asks for glibc " $2 }' <<<"$needs")
if [[ -n $too_new ]]; then
  die "a program asks for a newer glibc than $most_glibc: $(tr '\n' ' ' <<<"$too_new")" \
    "build on an older system, such as the container of scripts/container/README.md"
fi

(cd "$root" && cp -r scripts "$place/scripts")
rm -rf "$place/scripts/tests" "$place/scripts/bench" "$place/scripts/stress"
find "$place/scripts" -name __pycache__ -prune -exec rm -rf {} +
for document in README.md ARCHITECTURE.md CHANGELOG.md LICENSE LICENSE-MIT LICENSE-APACHE; do
  if [[ -e $root/$document ]]; then cp "$root/$document" "$place/"; fi
done
if [[ -d $root/docs ]]; then cp -r "$root/docs" "$place/docs"; fi
{
  echo "mt-identifier $version, ONNX Runtime $ort_version ($flavour)"
  echo "program or library, newest version of glibc that it asks for:"
  printf %s "$needs"
} >"$place/PACKAGE.txt"

tar --owner=0 --group=0 --numeric-owner -czf "$file.tmp" -C "$work" "$name"
mv "$file.tmp" "$file"
say "$(du -h "$file" | cut -f1), glibc $(awk 'NF == 2 && $1 ~ "/" { print $2 }' "$place/PACKAGE.txt" | sort -V | tail -1) or newer"
echo "$file"
