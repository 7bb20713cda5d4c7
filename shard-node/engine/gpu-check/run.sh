#!/usr/bin/env bash
# Runs gpu-check with the libtorch that this machine's PyTorch brings.
#
# Needs: python3 with torch 2.11 (built for CUDA), an NVIDIA driver 580 or newer, 5 GB in the temporary folder.
# No compiler. Arguments go to gpu-check: --device cuda:1, --sizes small, --scratch DIR, --help.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing; install it with torch==2.11.0"
found=$(python3 -c '
import os, torch
print(torch.__version__)
print(os.path.join(os.path.dirname(torch.__file__), "lib"))
print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU that torch can use")
') || fail "python3 cannot import torch; install torch==2.11.0"
{
    read -r version
    read -r libraries
    read -r gpu
} <<<"$found"
case $version in
2.11.*) ;;
*) fail "this is torch $version, but gpu-check is built against 2.11; install torch==2.11.0" ;;
esac
[ -f "$libraries/libtorch_cpu.so" ] || fail "torch $version has no libtorch_cpu.so in $libraries"
echo "torch $version in $libraries; $gpu; $(uname -sr), $(nproc) cores"

# These would turn on TF32, whose 10 bits the f32 check must not pass.
unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE NVIDIA_TF32_OVERRIDE
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# As shard-node starts its engine: a waiting thread of the CPU's part soon sleeps.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-6000}
exec "$here/gpu-check" "$@"
