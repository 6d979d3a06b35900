#!/bin/sh
# One segmentation model trained by two machines, without a scheduler. On the first and on the second:
#
#   sh scripts/launch/two_machines.sh 0 10.0.0.1 RUNS_DIR CONFIG [key=value …]
#   sh scripts/launch/two_machines.sh 1 10.0.0.1 RUNS_DIR CONFIG [key=value …]
#
# 10.0.0.1 is the first machine's address in a network that only the two share; each uses all of its GPUs. Start both
# within five minutes. To resume after a stop, whatever the reason, give both commands again.
#
# Equal on both: this package and its versions, the config and what follows it, the files of the data set under the same
# path, the number and kind of GPUs. RUNS_DIR is one folder that both see (NFS or similar), and used for this run alone.
#
# Firewall: between the two machines all TCP ports, since NCCL chooses its own besides PORT (8476); from anywhere else
# none. Neither the coordinator nor NCCL asks for a password. The coordinator would listen on all interfaces, and is
# bound to the given address here; INTERFACE=eth1 names the network card for NCCL.
set -eu
process_id=$1 address=$2
shift 2

export JAX_COORDINATOR_BIND_ADDRESS="$address:${PORT:-8476}"
if [ -n "${INTERFACE:-}" ]; then export NCCL_SOCKET_IFNAME="=$INTERFACE"; fi
exec sh "$(dirname "$0")/start_or_resume.sh" "$@" \
    --distributed --coordinator "$address:${PORT:-8476}" --num-processes 2 --process-id "$process_id"
