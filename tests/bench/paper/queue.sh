#!/bin/sh
# sh tests/bench/paper/queue.sh SHARED WORK [WORKERS]: train what is left of the comparison in the background, at the
# lowest priority; begin and end it as often as you like. It ends by itself, or with `kill -- -$(cat WORK/worker-1.pid)`.
set -eu
code=$(cd "$(dirname "$0")/../../.." && pwd)
shared=$(cd "$1" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
for worker in $(seq "${3:-1}"); do
    runs=$(cat "$work/worker-$worker.pid" 2> /dev/null || true)
    if [ -n "$runs" ] && grep -qa paper.run "/proc/$runs/cmdline" 2> /dev/null; then
        echo "worker $worker runs already, as process $runs"
        continue
    fi
    PYTHONPATH="$code:$code/tests/bench" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
        setsid sh -c '
            echo $$ > "$2/worker-$3.pid"
            { echo 10 > /proc/self/autogroup; } 2> /dev/null || true
            while true; do
                nice -n 19 python -m paper.run next --shared "$1" --work "$2"; code=$?
                [ $code -eq 3 ] && break
                [ $code -ne 0 ] && sleep 60
            done
        ' queue "$shared" "$work" "$worker" < /dev/null >> "$work/worker-$worker.log" 2>&1 &
done
