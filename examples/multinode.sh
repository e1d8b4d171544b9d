#!/usr/bin/env bash
# A run on several machines without a scheduler: start this script on each, with the number of the machine, from 0.
#
#     bash multinode.sh 0      # on the first
#     bash multinode.sh 1      # on the second; the order does not matter, and they wait for each other
#
# Ctrl-C on any of them saves and stops all; the same commands continue.

set -euo pipefail

number=${1:?which machine is this? bash multinode.sh NUMBER, from 0}
machines=${MACHINES:-2}
processes=${PROCESSES:-8}                # on each machine: its GPUs
meeting=${MEETING:-10.0.0.1:29400}       # machine 0 as the others reach it, and a port that is free there
# shellcheck disable=SC2206
more=(${OPTIONS:---data-root edu_fineweb10B --log-dir log/gpt2})

# Every machine needs the data; --log-dir is written by machine 0 only.
# With several networks, say which one the processes talk over: export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0
exec gpt train --nodes "$machines" --node-rank "$number" --rdzv-endpoint "$meeting" --gpus "$processes" "${more[@]}"
