#!/bin/bash
# Carries out one activation, and proves it by a test.
#
#   activate.sh MODE COUNT TEST... COMMAND...
#
#   MODE     `secret`: one line on standard input is for the command; `-`: there is none
#   COUNT    the number of words of TEST
#   TEST     a command line that ends with 0 if the activation is on this Mac
#   COMMAND  the command line that activates
#
# The output of both is dropped: it can have the secret. Exit status 0: the test succeeded.
mode=$1 count=$2
shift 2
test=("${@:1:count}")
shift "$count"
secret=
[ "$mode" != secret ] || IFS= read -r secret

succeeds() { "${test[@]}" </dev/null >/dev/null 2>&1; }

if succeeds; then
    echo "the success test passed before the command"
    exit 0
fi
if [ "$mode" = secret ]; then
    printf '%s\n' "$secret" | "$@" >/dev/null 2>&1
    status=${PIPESTATUS[1]}
else
    "$@" </dev/null >/dev/null 2>&1
    status=$?
fi
secret=
if succeeds; then
    echo "the success test passed after the command"
    exit 0
fi
echo "the success test fails after the command, which ended with $status"
exit 1
