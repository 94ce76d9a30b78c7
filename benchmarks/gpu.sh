#!/usr/bin/env bash
# Prove, choose and time the paths of the reads on this machine's GPU, in less than 9 minutes.
#
#     benchmarks/gpu.sh [--wheel FILE] [--minutes N] [--only TEXT] ...       (--help has all of them)
#
# Needed are torch, triton and dynamic-network-architectures. Where the last one is not installed, give its wheel with
# --wheel. The results are in benchmarks/results/reads-<gpu name>.json, and in a table beside it. PYTHON names the
# interpreter.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
path=$repository
if [[ ${1:-} == --wheel ]]; then
    [[ -f ${2:-} ]] || { echo "there is no wheel ${2:-}" >&2; exit 1; }
    unpacked=$(mktemp -d)
    trap 'rm -rf "$unpacked"' EXIT
    "$python" -m zipfile -e "$2" "$unpacked"
    path=$repository:$unpacked
    shift 2
fi
for module in torch triton dynamic_network_architectures; do
    PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} "$python" -c "import sys, importlib.util as u; sys.exit(u.find_spec('$module') is None)" ||
        { echo "$module is not installed for $python" >&2; exit 1; }
done
PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} "$python" -m benchmarks.gpu "$@"
