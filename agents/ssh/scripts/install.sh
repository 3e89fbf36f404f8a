#!/bin/bash
# Checks Apple's signature of an installer again, and starts it in place of this script.
#
#   install.sh APP [ARGUMENT...]
#
#   APP       `Install macOS ....app`
#   ARGUMENT  of its startosinstall; a password arrives on standard input
app=$1
shift
# Between the fetch and the order another program can have changed the app.
if ! pkgutil --check-signature "$app" 2>/dev/null </dev/null |
    grep -q '^ *Status: signed Apple Software'; then
    echo "Error: the installer's signature is not Apple's"
    exit 1
fi
exec "$app/Contents/Resources/startosinstall" "$@"
