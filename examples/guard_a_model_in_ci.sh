#!/usr/bin/env bash
# Stop a pipeline when an exported file became worse.
#
#     examples/guard_a_model_in_ci.sh RUN BASELINE RESULTS
#
# RUN is a trained and exported run. BASELINE is the file that keeps the last release's answers: made at the first call,
# compared with from then on. RESULTS is a folder for check.xml (JUnit) and check.md.
set -euo pipefail
run=$1 baseline=$2 results=$3
mkdir -p "$results"

if [ ! -f "$baseline" ]; then
    # Few test images leave gates undecided: for the first release that may pass, and the table says how many would do.
    tledge check "$run" --gate "drop < 0.05" --on-undecided pass
    tledge baseline save "$run" -o "$baseline"
    exit
fi

# Exit code 1 ends the job: a gate failed, or a file answers worse than the release by more than chance explains.
tledge check "$run" --gate "drop < 0.05" --on-undecided pass --baseline "$baseline" \
    --junit "$results/check.xml" --markdown "$results/check.md"
