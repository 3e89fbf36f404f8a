#!/bin/bash
# Prints facts of this Mac and the tasks of one job. Changes nothing.
#
#   report.sh TASKS JOB VOLUME_OWNER COSTLY
#
#   TASKS         the folder of all tasks
#   JOB           the id of the job, with which the names of its tasks begin
#   VOLUME_OWNER  the account that authorizes installations; "" without one
#   COSTLY        further facts, as words: `enrollment`, which macOS limits in its rate; `history` of
#                 installations, which is long; `backups` and `image`, which can take seconds
#
#   fact NAME EXIT_STATUS OUTPUT
#   task NAME STATE BEGUN_AT EXIT_STATUS ENDED_AT OUTPUT
#   end
#
# OUTPUT is both streams in base64, times are seconds since 1970 by this Mac's clock, and an unknown
# value is `-`. STATE: waiting, running, ended, silent, interrupted.
tasks=$1 job=$2 owner=$3 costly=$4

encoded() { base64 | tr -d '\n'; }

fact() {
    local name=$1 output status
    shift
    output=$("$@" 2>&1 </dev/null)
    status=$?
    printf 'fact %s %s %s\n' "$name" "$status" "$(printf '%s' "${output:0:1000000}" | encoded)"
}

fact clock date +%s
fact serial ioreg -rd1 -c IOPlatformExpertDevice
fact system sw_vers
fact boot_time sysctl -n kern.boottime
fact apple_silicon sysctl -n hw.optional.arm64
fact disk df -kP /
fact power pmset -g batt
fact console stat -f %Su /dev/console
fact processes ps -axo comm=
fact owners diskutil apfs listUsers /
[ -z "$owner" ] || fact owner_uid dscl . -read "/Users/$owner" GeneratedUID
restrictions="/Library/Managed Preferences/com.apple.applicationaccess.plist"
if [ -e "$restrictions" ]; then
    fact restrictions plutil -convert xml1 -o - "$restrictions"
fi
for name in $costly; do
    case $name in
    enrollment) fact enrollment profiles status -type enrollment ;;
    history) fact history plutil -convert xml1 -o - /Library/Receipts/InstallHistory.plist ;;
    backups)
        fact snapshots tmutil listlocalsnapshots /
        fact time_machine tmutil latestbackup
        # The names of both have the Mac's local time.
        fact zone date +%z
        ;;
    image)
        fact model sysctl -n hw.model
        fact hardware system_profiler SPHardwareDataType
        fact bridge system_profiler SPiBridgeDataType
        ;;
    esac
done

for task in "$tasks/$job".*; do
    [ -d "$task" ] || continue
    begun=$(readlink "$task/begun")
    pid=${begun%%.*} begun_at=${begun#*.}
    exit_status=- ended_at=-
    if [ -z "$begun" ]; then
        state=waiting begun_at=-
    # Before its exit status: it can end in between.
    elif ps -o command= -p "$pid" 2>/dev/null | grep -qF "$task/"; then
        state=running
    elif [ -s "$task/exit" ]; then
        read -r exit_status ended_at <"$task/exit"
        state=ended
        [ -e "$task/silent" ] && state=silent
    else
        state=interrupted
    fi
    printf 'task %s %s %s %s %s %s\n' "${task##*/}" "$state" "$begun_at" "$exit_status" \
        "$ended_at" "$(tail -c 20000 "$task/output" 2>/dev/null | encoded)"
done
echo end
