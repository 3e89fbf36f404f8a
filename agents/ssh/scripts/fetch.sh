#!/bin/bash
# Puts the installer of one release on this Mac, signed by Apple.
#
#   fetch.sh APPLICATIONS FOLDER VERSION BUILD SIZE SHA256 DEFERRAL
#
#   APPLICATIONS   the folder in which Apple's package puts `Install macOS ....app`
#   FOLDER         for the package while it is fetched; it survives a cut, and is then completed
#   VERSION BUILD  of the release; BUILD is `-` for any build
#   SIZE SHA256    of the package, in bytes; `-` if Apple's own tool fetches it
#   DEFERRAL       `deferral` if the Mac's own settings defer releases: then a deferred one is refused
#
# Standard input: one line with the URL of InstallAssistant.pkg, empty for Apple's own tool. The URL
# can have a secret, so it is in no argument. The last line of the output:
#
#   installer KILOBYTES APP     the installer is there and Apple signed it
#   failed CODE DETAIL          CODE is an error code of Drydock
umask 022
applications=$1 folder=$2 version=$3 build=$4 size=$5 sha256=$6 deferral=$7
IFS= read -r url

fail() {
    echo "failed $1 $2"
    exit 1
}

signed_by_apple() {
    pkgutil --check-signature "$1" 2>/dev/null | grep -q '^ *Status: signed Apple Software'
}

# The build in Info.plist is often an older one, so the list of the assets is read
# (github.com/grahampugh/erase-install).
release_of() {
    local mount assets
    mount=$(mktemp -d) || return 1
    hdiutil attach -quiet -nobrowse -readonly -mountpoint "$mount" \
        "$1/Contents/SharedSupport/SharedSupport.dmg" </dev/null || { rmdir "$mount"; return 1; }
    assets=$(find "$mount" -name com_apple_MobileAsset_MacSoftwareUpdate.xml | head -n 1)
    found_build=$(PlistBuddy -c 'Print :Assets:0:Build' "$assets" 2>/dev/null)
    found_version=$(PlistBuddy -c 'Print :Assets:0:OSVersion' "$assets" 2>/dev/null)
    hdiutil detach -quiet "$mount" || hdiutil detach -quiet -force "$mount"
    rmdir "$mount"
}

use_installed() {
    local app
    for app in "$applications"/Install\ macOS*.app; do
        [ -d "$app" ] || continue
        found_build= found_version=
        release_of "$app" || continue
        if [ "$build" = - ]; then
            [ "$found_version" = "$version" ] || continue
        else
            [ "$found_build" = "$build" ] || continue
        fi
        echo "Checking the signature of $app"
        signed_by_apple "$app" || fail installer_corrupt "the signature of $app is not Apple's"
        echo "installer $(du -sk "$app" | cut -f 1) $app"
        exit 0
    done
}

if [ "$deferral" = deferral ]; then
    # Title: macOS Tahoe, Version: 26.7, Size: 17951133KiB, Build: 25G229, Deferred: NO
    rows=$(softwareupdate --list-full-installers </dev/null 2>/dev/null | grep "Version: $version,")
    [ "$build" = - ] || rows=$(printf '%s' "$rows" | grep "Build: $build\(,\|$\)")
    case $rows in
    *"Deferred: YES"*) fail update_deferred "the Mac's own settings defer macOS $version" ;;
    esac
fi

use_installed

if [ -z "$url" ]; then
    softwareupdate --fetch-full-installer --full-installer-version "$version" </dev/null 2>&1
    use_installed
    fail installer_unavailable "Apple's tool did not fetch the installer of $version ($build)"
fi

mkdir -p "$folder" || fail no_disk_space "$folder cannot be made"
package="$folder/InstallAssistant-$version-$build.pkg"
bytes() { stat -f %z "$package" 2>/dev/null || echo 0; }

[ "$(bytes)" -le "$size" ] || rm -f "$package"
if [ "$(bytes)" -lt "$size" ]; then
    # The configuration on standard input keeps the URL out of the list of processes.
    printf 'url = "%s"\n' "$url" | curl --fail --silent --show-error --location --config - \
        --output "$package" --continue-at - --connect-timeout 30 --speed-time 300 --speed-limit 1 &
    curl_pid=$!
    last=
    while kill -0 "$curl_pid" 2>/dev/null; do
        percent=$(($(bytes) * 100 / size))
        [ "$percent" = "$last" ] || echo "Downloading: $percent%"
        last=$percent
        sleep 2
    done
    wait "$curl_pid"
    status=$?
    [ "$status" -ne 23 ] || fail no_disk_space "the package cannot be written"
    [ "$status" -eq 0 ] || fail download_failed "curl ended with $status at $(bytes) of $size bytes"
fi
url=
echo "Checking the package"
if [ "$(bytes)" -ne "$size" ]; then
    rm -f "$package"
    fail installer_corrupt "the package has another size than $size bytes"
fi
found=$(shasum -a 256 "$package")
if [ "${found%% *}" != "$sha256" ]; then
    rm -f "$package"
    fail installer_corrupt "the SHA-256 of the package is ${found%% *}"
fi
if ! signed_by_apple "$package"; then
    rm -f "$package"
    fail installer_corrupt "the signature of the package is not Apple's"
fi
echo "Unpacking"
installer -pkg "$package" -target / </dev/null || fail install_failed "installer ended with $?"
rm -f "$package"
use_installed
fail installer_unavailable "the package has another release than $version ($build)"
