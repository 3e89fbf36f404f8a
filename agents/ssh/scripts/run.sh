#!/bin/bash
# Runs the command of one task once, and keeps its output and exit status. launchd starts it on the
# Mac, so it goes on without a connection.
#
#   run.sh TASK PIPE NOTICE_S SILENCE_S COMMAND [ARGUMENT...]
#
#   TASK       the folder of the task
#   PIPE       the named pipe that a password arrives in, which the command gets on its standard
#              input; "" without one. Without a password within a minute nothing runs
#   NOTICE_S   seconds between a notice to the user at the screen and the command; 0: no notice
#   SILENCE_S  seconds without any output after which the command is ended
#
# begun      symbolic link to PID.TIME, made just before the command. Its creation succeeds once: of
#            several runners of one task only one runs the command
# output     of the command, both streams; before it, during the notice, one line that says so
# exit       exit status and time of the end
# silent     exists if the command was ended for its silence
umask 077
task=$1 pipe=$2 notice_s=$3 silence_s=$4
shift 4

password=
if [ -n "$pipe" ]; then
    # Opened for both directions: otherwise the runner waits for a writer that may be gone.
    exec 3<>"$pipe"
    IFS= read -r -t 60 -u 3 password
    received=$?
    exec 3<&-
    rm -f "$pipe"
    [ "$received" -eq 0 ] || exit 75
fi

ln -s "$$.$(date +%s)" "$task/begun" 2>/dev/null || exit 0
# Power may fail at once, and then the command must not run again.
sync

if [ "$notice_s" -gt 0 ]; then
    # The command replaces this line: whoever finds it knows that the command did not begin.
    echo "drydock: notice to the user" >"$task/output"
    user=$(stat -f %Su /dev/console)
    alert="display alert \"macOS will be updated\" message \"This Mac restarts in"
    alert="$alert $((notice_s / 60)) minutes or later. Save your work.\" giving up after $notice_s"
    launchctl asuser "$(id -u "$user")" sudo -u "$user" osascript -e "$alert" >/dev/null 2>&1 &
    sleep "$notice_s"
fi

if [ -n "$pipe" ]; then
    printf '%s\n' "$password" | "$@" >"$task/output" 2>&1 &
else
    "$@" </dev/null >"$task/output" 2>&1 &
fi
command_pid=$!
password=

silent_s=0 size=-1
while kill -0 "$command_pid" 2>/dev/null; do
    sleep 1
    silent_s=$((silent_s + 1))
    new_size=$(wc -c <"$task/output")
    [ "$new_size" = "$size" ] || silent_s=0
    size=$new_size
    if [ "$silent_s" -ge "$silence_s" ]; then
        : >"$task/silent"
        kill "$command_pid"
        sleep 5
        kill -9 "$command_pid" 2>/dev/null
        break
    fi
done
wait "$command_pid"
echo "$? $(date +%s)" >"$task/exit.new"
mv "$task/exit.new" "$task/exit"
