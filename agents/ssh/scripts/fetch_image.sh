#!/bin/bash
# Puts an image for `asr` on this Mac.
#
#   fetch_image.sh FOLDER NAME SIZE SHA256
#
#   FOLDER         for the image; it survives a cut of the fetch, which is then completed
#   NAME           the name of the image's file
#   SIZE SHA256    of the image; SIZE is in bytes
#
# Standard input: one line with its URL, which can have a secret. The last line of the output:
#
#   installer KILOBYTES IMAGE   the image is there
#   failed CODE DETAIL          CODE is an error code of Drydock
umask 077
folder=$1 image="$1/$2" size=$3 sha256=$4
IFS= read -r url

fail() {
    echo "failed $1 $2"
    exit 1
}

bytes() { stat -f %z "$image" 2>/dev/null || echo 0; }

mkdir -p "$folder" || fail no_disk_space "$folder cannot be made"
[ "$(bytes)" -le "$size" ] || rm -f "$image"
if [ "$(bytes)" -lt "$size" ]; then
    # The configuration on standard input keeps the URL out of the list of processes.
    printf 'url = "%s"\n' "$url" | curl --fail --silent --show-error --location --config - \
        --output "$image" --continue-at - --connect-timeout 30 --speed-time 300 --speed-limit 1
    status=$?
    [ "$status" -ne 23 ] || fail no_disk_space "the image cannot be written"
    [ "$status" -eq 0 ] || fail download_failed "curl ended with $status at $(bytes) of $size bytes"
fi
url=
found=$(shasum -a 256 "$image")
if [ "$(bytes)" -ne "$size" ] || [ "${found%% *}" != "$sha256" ]; then
    rm -f "$image"
    fail installer_corrupt "the image has another size or SHA-256 than its manifest"
fi
echo "installer $(du -sk "$image" | cut -f 1) $image"
