# Sourced by scripts that make OCI layouts with no more than tar, gzip and sha256sum.
# shellcheck shell=bash

oci_digest() { sha256sum "$1" | cut -d' ' -f1; }

# oci_layer TAR: compresses it to TAR.gz, and notes what a manifest says of it in TAR.info: digest, size, diff id.
oci_layer() {
    local diff_id
    diff_id=$(oci_digest "$1")
    "$(command -v pigz || command -v gzip)" -n <"$1" >"$1.gz"
    printf '%s %s %s\n' "$(oci_digest "$1.gz")" "$(stat -c %s "$1.gz")" "$diff_id" >"$1.info"
}

# oci_image OUT TAR...: makes OUT a layout with one image, tag `latest`, of layers that oci_layer was called for, the
# lowest first. Layers are linked where they can be, not copied.
oci_image() {
    local out=$1 blobs=$1/blobs/sha256 tar hex size diff_id arch layers='' diff_ids='' path manifest
    shift
    case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
    mkdir -p "$blobs"
    for tar in "$@"; do
        read -r hex size diff_id <"$tar.info"
        [ -e "$blobs/$hex" ] || ln "$tar.gz" "$blobs/$hex" 2>/dev/null || cp "$tar.gz" "$blobs/$hex"
        layers+=$(printf ',{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%s}' "$hex" "$size")
        diff_ids+=",\"sha256:$diff_id\""
    done
    path='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
    printf '{"architecture":"%s","os":"linux","config":{%s,"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$arch" "$path" "${diff_ids#,}" >"$out/config"
    read -r hex size <<<"$(oci_keep "$out/config" "$blobs")"
    manifest='"mediaType":"application/vnd.oci.image.manifest.v1+json"'
    printf '{"schemaVersion":2,%s,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[%s]}' \
        "$manifest" "$hex" "$size" "${layers#,}" >"$out/manifest"
    read -r hex size <<<"$(oci_keep "$out/manifest" "$blobs")"
    printf '{"schemaVersion":2,"manifests":[{%s,"digest":"sha256:%s","size":%s,"platform":{"os":"linux","architecture":"%s"},"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}' \
        "$manifest" "$hex" "$size" "$arch" >"$out/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$out/oci-layout"
}

# oci_keep FILE BLOBS: puts a file among the blobs, prints its digest and size.
oci_keep() {
    local hex
    hex=$(oci_digest "$1")
    mv "$1" "$2/$hex"
    printf '%s %s\n' "$hex" "$(stat -c %s "$2/$hex")"
}
