#!/bin/sh
# Run the collector as its arguments say, and hand its signals on. Docker starts a container again whatever its exit code
# was; so a recorder that ends with 2, a usage or config error, is not ended: it stays down in a container that stays up,
# unhealthy, until somebody has corrected the config and restarts it.
stopping=
trap 'stopping=1; kill -TERM "$!" 2>/dev/null' TERM INT
collector-trio "$@" &
pid=$!
[ -z "$stopping" ] || kill -TERM "$pid" # it came before there was anybody to hand it to
wait "$pid"
code=$?
while kill -0 "$pid" 2>/dev/null; do # a signal ended the waiting, not the collector
    wait "$pid"
    code=$?
done
if [ "$code" -ne 2 ] || [ "${1:-run}" != run ]; then
    exit "$code"
fi
# KILL, since the shell's new child, not yet `sleep`, would swallow a TERM.
trap 'kill -KILL $! 2>/dev/null; exit 2' TERM INT
echo "not started again before the config is corrected and the container restarted" >&2
while :; do
    sleep 3600 &
    wait $!
done
