#!/bin/sh
# A supervisor for tests. It says what it can do once the file `ready` is in $FAKE_SUPERVISOR, or that directory is gone; every
# machine it is asked about runs.
request=$(cat)
said='"protocol":"supervisor.microagent.dev/v1","ok":true'
case $request in
*'"verb":"capabilities"'*)
    while [ -d "$FAKE_SUPERVISOR" ] && ! [ -e "$FAKE_SUPERVISOR/ready" ]; do sleep 0.02; done
    echo "{$said,\"capabilities\":{\"backend\":\"Qemu\",\"version\":\"0\",\"verbs\":[],\"accelerators\":[\"tcg\"],\"maxVcpus\":1}}"
    ;;
*)
    uid=$(printf '%s' "$request" | sed -n 's/.*"uid":"\([^"]*\)".*/\1/p')
    echo "{$said,\"machine\":{\"uid\":\"$uid\",\"state\":\"running\"}}"
    ;;
esac
