#!/bin/sh
# Stands in for `python3 -m pip` in the tests: "fetches" from the directory `source` beside the directory that
# is set up (TMPDIR is DIR/downloads/.incoming-N), and notes each call in `calls`.
if [ "$3" = "--version" ]; then
    echo "pip 26.0 from nowhere (python 3.12)"
    exit 0
fi
for last; do :; done
root="$TMPDIR/../../.."
echo "$last" >> "$root/calls"
if [ -e "$root/source/offline" ]; then
    echo "WARNING: Retrying: Temporary failure in name resolution" >&2
    echo "ERROR: No matching distribution found for $last" >&2
    exit 1
fi
cp "$root/source/$last"/* "$TMPDIR/"
