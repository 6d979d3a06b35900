# Read by the scripts beside it (`. pieces.sh`): does what is asked for in pieces, each once, within SECONDS_IN_ALL.
#
# A piece is done when its JSON file is in the output folder. It begins only while half of the time is left, and is
# ended when the time is over: then the next call begins with it. One that fails, or had the whole time for itself, leaves
# NAME.failed, which ends in the reason, and is not tried again; remove the file to try it again.
: "${SECONDS_IN_ALL:=500}"
began=$(date +%s) unfinished="" started=""
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}"

# piece NAME COMMAND…: the command writes $out/NAME.json when it is done.
piece() {
    piece=$1
    shift
    if [ -e "$out/$piece.json" ] || [ -e "$out/$piece.failed" ]; then return 0; fi
    left=$((SECONDS_IN_ALL - $(date +%s) + began))
    if [ -n "$unfinished" ] || [ "$left" -le $((SECONDS_IN_ALL / 2)) ]; then
        unfinished=${unfinished:-$piece}
        return 0
    fi
    echo "$piece, at most $left s"
    code=0
    timeout -s INT -k 20 "$left" "$@" > "$out/$piece.log" 2>&1 || code=$?
    case $code in 124 | 137) if [ -n "$started" ]; then unfinished=$piece; fi ;; esac
    started=yes
    if [ "$code" != 0 ] && [ -z "$unfinished" ]; then
        mv "$out/$piece.log" "$out/$piece.failed"
        echo "  failed with exit code $code: $out/$piece.failed"
    fi
}

# finish: prints the table of what is in the output folder; the exit code is 75 where something is left, 1 where
# something failed.
finish() {
    python scripts/gpu/table.py "$out"
    if [ -n "$unfinished" ]; then
        echo "not finished, next is $unfinished: call this script again"
        exit 75
    fi
    for failed in "$out"/*.failed; do
        if [ -e "$failed" ]; then exit 1; fi
    done
}
