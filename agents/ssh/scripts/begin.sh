#!/bin/bash
# Starts the runner of one task under launchd, and waits for the begin or the end of its command.
#
#   begin.sh TASK TOKEN RUNNER JOB MILESTONE WAIT_S
#
#   TASK       the folder of the task
#   TOKEN      a name for the files of this start; another start has another one
#   RUNNER     the text of run.sh
#   JOB        the text of the property list of the runner
#   MILESTONE  `begun` or `exit`
#   WAIT_S     the longest wait, in seconds
#
# Standard input: one line with a password if JOB has the pipe TOKEN.pipe, otherwise nothing. Exit
# status 0: the runner was started, or the command had begun before; 1: nothing was started.
umask 077
task=$1 token=$2 runner=$3 job=$4 milestone=$5 wait_s=$6

password=
if IFS= read -r password; then with_password=1; else with_password=; fi
# A line that was cut off by the end of the connection.
[ -n "$with_password" ] || [ -z "$password" ] || exit 1

mkdir -p "$task" || exit 1
[ -L "$task/begun" ] && exit 0
printf '%s' "$runner" >"$task/$token.sh" || exit 1
printf '%s' "$job" >"$task/$token.plist" || exit 1
if [ -n "$with_password" ]; then
    mkfifo "$task/$token.pipe" || exit 1
    # Opened for both directions: it keeps the line until the runner opens its end.
    exec 3<>"$task/$token.pipe"
fi
launchctl bootstrap system "$task/$token.plist" || exit 1
[ -z "$with_password" ] || printf '%s\n' "$password" >&3
password=
waited=0
until [ -L "$task/$milestone" ] || [ -e "$task/$milestone" ] || [ "$waited" -ge $((wait_s * 5)) ]; do
    sleep 0.2
    waited=$((waited + 1))
done
exit 0
