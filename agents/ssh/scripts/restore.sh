#!/bin/bash
# Restores a volume of this Mac from an image, and starts from it. Nothing is erased before every
# check has passed.
#
#   restore.sh IMAGE VOLUME VERSION BUILD FIRMWARE MODEL
#
#   IMAGE                   the file of the image
#   VOLUME                  the name of the volume that is erased; never the running one
#   VERSION BUILD FIRMWARE  of the image; the Mac must have them already
#   MODEL                   of the Mac for which the decision was made
#
# The output is that of asr, and one line `Error: image_unfit: ...` or `Error: ...` at the end of a
# failure.
image=$1 volume=$2 version=$3 build=$4 firmware=$5 model=$6

fail() {
    echo "Error: $1"
    exit 1
}

field() { # file key: a value of a property list
    PlistBuddy -c "Print :$2" "$1" 2>/dev/null
}

same() { # name found wanted
    [ "$2" = "$3" ] || fail "image_unfit: the Mac has the $1 ${2:-unknown}, the image needs $3"
}

# The image never changes what the Mac runs: firmware comes with Apple's installers only.
same version "$(sw_vers -productVersion)" "$version"
same build "$(sw_vers -buildVersion)" "$build"
same model "$(sysctl -n hw.model)" "$model"
hardware=$(system_profiler SPHardwareDataType)
found=$(printf '%s\n' "$hardware" | sed -n -E 's/^ *(System Firmware|Boot ROM) Version: *//p')
same firmware "${found%% *}" "${firmware%% *}"
case $(sysctl -n hw.optional.arm64 2>/dev/null) in
1) fail "image_unfit: Apple silicon cannot be restored from an image" ;;
esac
case $(system_profiler SPiBridgeDataType) in
*T2*) fail "image_unfit: a Mac with a T2 cannot be restored from an image" ;;
esac

folder=$(mktemp -d) || fail "no temporary folder"
trap 'rm -rf "$folder"' EXIT
diskutil info -plist "$volume" >"$folder/target" 2>/dev/null ||
    fail "image_unfit: the Mac has no volume $volume"
diskutil info -plist / >"$folder/running" || fail "the running volume is unknown"
device=$(field "$folder/target" DeviceNode)
[ -n "$device" ] || fail "image_unfit: the volume $volume has no device"
for key in DeviceNode VolumeUUID APFSVolumeGroupID; do
    mine=$(field "$folder/running" "$key")
    if [ -n "$mine" ] && [ "$mine" = "$(field "$folder/target" "$key")" ]; then
        fail "image_unfit: $volume is the running system"
    fi
done
[ "$(field "$folder/target" Internal)" = true ] || fail "image_unfit: $volume is on another disk"

echo "Preparing: 0%"
# asr compares the target with the checksums of the image, unless --noverify is given.
asr restore --source "$image" --target "$device" --erase --noprompt || fail "asr ended with $?"
echo "Preparing: 100%"
# The restored volume has the name and the identifiers of the image.
diskutil mount "$device" >/dev/null || fail "the restored volume cannot be mounted"
diskutil info -plist "$device" >"$folder/target" || fail "the restored volume is unknown"
mount=$(field "$folder/target" MountPoint)
restored="$mount/System/Library/CoreServices/SystemVersion.plist"
[ "$(field "$restored" ProductBuildVersion)" = "$build" ] ||
    fail "the restored volume has another build than $build"
bless --mount "$mount" --setBoot || fail "bless ended with $?"
rm -f "$image"
echo "Restarting..."
shutdown -r now
