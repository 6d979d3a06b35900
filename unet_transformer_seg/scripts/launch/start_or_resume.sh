#!/bin/sh
# One process of a training job: resumes the newest run in RUNS_DIR, or starts the first one there.
#
#   sh scripts/launch/start_or_resume.sh RUNS_DIR CONFIG [--distributed …] [key=value …]
#
# All processes of a job call it with the same RUNS_DIR, on a file system that they share; it is the job's own folder.
# RUN=runs/… names the run to resume instead. The training takes the place of this shell, so that a signal reaches
# it and its exit code is that of this script.
set -eu
runs_dir=$1 config=$2
shift 2

run=${RUN:-}
if [ -z "$run" ]; then
    # Names begin with the time: the last one is the newest. environment.json is the last file of a complete beginning.
    for found in "$runs_dir"/*/environment.json; do
        if [ -f "$found" ]; then run=${found%/environment.json}; fi
    done
fi

if [ -n "$run" ]; then
    exec python -m seg.train --resume "$run" "$@"
fi
exec python -m seg.train --config "$config" "runs_dir=$runs_dir" "$@"
