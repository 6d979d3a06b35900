# For the scripts beside it, which read it with ".": work in steps, and as many of them in one call as MINUTES (8) allow.
#
# A step that has ended leaves NAME.exit with its exit code in the folder $out, and is not done again; delete that file
# to repeat it. What it printed is in NAME.log. A step that needs longer than its limit is ended, and counts as failed.

began=$(date +%s) piece_s=$((${MINUTES:-8} * 60)) any_done=""

# do_once NAME LIMIT_S COMMAND…
do_once() {
    name=$1 limit_s=$2
    shift 2
    if [ -f "$out/$name.exit" ]; then return; fi
    if [ -n "$any_done" ] && [ $(($(date +%s) - began + limit_s)) -gt "$piece_s" ]; then
        echo "not finished: call this script again"
        exit 75
    fi
    code=0 start=$(date +%s)
    timeout "$limit_s" "$@" >"$out/$name.log" 2>&1 || code=$?
    if [ "$code" = 130 ] || [ "$code" = 143 ]; then exit "$code"; fi # stopped: the next call repeats this step
    if [ "$code" = 75 ]; then
        echo "$name: resumes at the next call"
        exit 75
    fi
    echo "$code" >"$out/$name.exit"
    any_done=1
    echo "$name: exit code $code, $(($(date +%s) - start)) s"
}
