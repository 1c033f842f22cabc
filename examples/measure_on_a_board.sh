#!/usr/bin/env bash
# Measure a run's files on a board that is reached through ssh, beside this machine.
#
#     examples/measure_on_a_board.sh RUN ssh://pi@board [more options of `tledge bench --on`]
#
# The board needs Python 3.10 with numpy and ai-edge-litert or onnxruntime; nothing of tledge is installed there.
set -euo pipefail
run=$1 host=$2
shift 2

# Files are copied, answer the test images as they do here, are measured, and are removed again.
tledge bench "$run" --on "$host" --also-here "$@"
tledge report "$run"
