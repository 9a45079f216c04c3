#!/bin/sh
# Builds guest-init as the one static file that goes into an initramfs, and prints its path and size in bytes.
#   guest-init/build.sh [OUT]
# OUT is <target>/guest-init/microagent-guest-init of the workspace when not given. Needs no network once cargo has fetched
# the workspace's dependencies.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
case ${1:-} in
'' | /*) out=${1:-} ;;
*) out=$PWD/$1 ;;
esac
cd "$root"
target_dir=${CARGO_TARGET_DIR:-$root/target}
out=${out:-$target_dir/guest-init/microagent-guest-init}

# musl makes the smaller file. Where its target cannot be had, the host's own C library is linked in whole.
arch=$(uname -m)
musl=$arch-unknown-linux-musl
has_musl() {
    if command -v rustup >/dev/null 2>&1; then
        rustup target list --installed 2>/dev/null | grep -qx "$musl" || rustup target add "$musl" >/dev/null 2>&1
    else
        # A Rust without rustup: see whether its sysroot has the target.
        [ -d "$(rustc --print sysroot)/lib/rustlib/$musl/lib" ]
    fi
}
flags='-C target-feature=+crt-static'
if has_musl; then
    target=$musl
else
    target=$arch-unknown-linux-gnu
fi

RUSTFLAGS="${RUSTFLAGS:-} $flags" cargo build --quiet --profile guest --package microagent-guest-init --target "$target" \
    --target-dir "$target_dir"
built=$target_dir/$target/guest/microagent-guest-init

# A file that asks for a loader (PT_INTERP, program header type 3) does not start in an initramfs. Both architectures are
# 64-bit little-endian: e_phoff is at 32, e_phentsize at 54, e_phnum at 56.
number() { od -An -v -t "u$2" -j "$1" -N "$2" "$built" | tr -d ' '; }
offset=$(number 32 8)
size=$(number 54 2)
count=$(number 56 2)
i=0
while [ "$i" -lt "$count" ]; do
    if [ "$(number $((offset + i * size)) 4)" -eq 3 ]; then
        echo "error: $built is not static: it asks for a dynamic loader. Check RUSTFLAGS for -crt-static" >&2
        exit 1
    fi
    i=$((i + 1))
done

mkdir -p "$(dirname "$out")"
# Renamed into place, so that nobody packs half a file.
cp "$built" "$out.new.$$"
mv "$out.new.$$" "$out"
echo "$out $(wc -c <"$out" | tr -d ' ')"
