#!/usr/bin/env bash
# A supervisor in shell, with jq and util-linux. Its machines are processes that wait for their end; a real one would start a VMM in
# `machine`. Fewer words than the one in Python, and slower.
set -u
PROTOCOL=supervisor.microagent.dev/v1 MAX=33554432
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT

say() { # the members of an answer, as JSON
    jq -nc --arg p "$PROTOCOL" "{protocol: \$p, ok: true} + $1"
    exit "${2:-0}"
}
refuse() { # code, message
    local error
    error=$(jq -nc --arg c "$1" --arg m "$2" '{code: $c, message: $m, retryable: ($c == "ShimLost" or $c == "MachineBusy"),
        remediation: "read the message, and docs/supervisor-protocol.md"}')
    say "{ok: false, error: $error}" 1
}
ticks() { # when a process began: what tells it from a later one with its pid; nothing for one that has ended
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    stat=${stat##*) }
    [ "${stat%% *}" = Z ] || cut -d' ' -f20 <<<"$stat"
}
alive() { # of $machine
    local owner
    owner=$(jq -r '.owner // empty | "\(.pid) \(.startTime)"' <<<"$machine")
    [ -n "$owner" ] && [ "$(ticks "${owner% *}")" = "${owner#* }" ]
}
save() { # $1: whole or not at all, whenever this is killed
    printf '%s\n' "$1" >"$dir/machine.json.$BASHPID" && sync "$dir/machine.json.$BASHPID" && mv "$dir/machine.json.$BASHPID" "$dir/machine.json"
}
load() { machine=$(cat "$dir/machine.json" 2>/dev/null) || machine=$(jq -nc --arg u "$uid" '{uid: $u, state: "absent"}'); }
state() { jq -r .state <<<"$machine"; }
ended() { # what is to be added; makes $machine one that has ended
    machine=$(jq -c --arg at "$(date -u +%FT%T.%NZ)" "del(.owner) + {state: \"exited\", finishedAt: \$at} + $1" <<<"$machine")
    save "$machine"
}
observe() { # sets $machine
    load
    [ "$(jq -r .uid <<<"$machine")" = "$uid" ] || refuse IdentityMismatch "$dir is the directory of another machine"
    case $(state) in absent | exited) return ;; esac
    alive && return
    load # its last word may have come between the two looks
    [ "$(state)" = exited ] || ended '{failure: {code: "ShimLost", message: "it ended without a record", retryable: true, remediation: "nothing"}}'
}
# The directory's lock, on descriptor 9. The machine inherits it: while it is held, a machine runs or is about to.
settle() { # sets $machine, and $mine when the lock is ours
    mine=
    [ -d "$dir" ] || { observe; return; }
    exec 9<"$dir"
    for _ in $(seq 500); do
        flock -n 9 && mine=1
        observe
        if [ -n "$mine" ] || alive; then return; fi
        sleep 0.02
    done
    refuse MachineBusy "another call is at work here"
}
stop() { # signal, seconds
    settle
    alive || return 0
    local pid
    pid=$(jq .owner.pid <<<"$machine")
    kill "-$1" "$pid" 2>/dev/null
    [ "$2" -gt 0 ] || { observe; return; }
    for _ in $(seq $(($2 * 50))); do alive || break; sleep 0.02; done
    if alive; then stop KILL 10; return; fi
    load
    [ "$(state)" = exited ] || ended '{}'
}
configured() {
    jq -e '.config | .vcpus >= 1 and .vcpus <= 64 and .memoryMib >= 64 and (has("qemu") or has("firecracker") or has("appleVf") | not)' \
        "$request" >/dev/null || refuse UnsupportedConfig "1 to 64 CPUs, 64 MiB or more, and no other backend's options can be had"
    jq -j '.config | .kernel.path, .initramfs, .disks[].path | . + "\u0000"' "$request" | while IFS= read -r -d '' path; do
        [[ $path == /* && -f $path ]] || exit 1
    done || refuse FileUnavailable "a file of the machine is not there"
}
machine() { # the machine itself: it keeps the lock that it was born with, and writes its own record
    uid=$1 dir=$PWD machine=$(cat)
    machine=$(jq -c --arg at "$(date -u +%FT%T.%NZ)" --argjson pid $$ --argjson start "$(ticks $$)" '. + {owner: {pid: $pid, startTime: $start},
        startedAt: $at, guest: {ready: true, setupComplete: true, workloadStartedAt: $at}}' <<<"$machine")
    halted() {
        ended "{guest: (.guest + {workloadExit: {signal: 15}, workloadFinishedAt: \$at})}"
        kill "$waiting" 2>/dev/null
        exit
    }
    trap halted TERM
    save "$machine"
    exec >&- # what `start` waits for
    setpriv --pdeathsig KILL sleep infinity 9<&- & # the VMM, if there were one: it ends with its owner
    waiting=$!
    wait "$waiting"
    ended '{failure: {code: "VmmFailed", message: "the VMM ended", retryable: true, remediation: "read its words"}}'
}
[ "${1:-}" = machine ] && { machine "$2"; exit; }

request=$work/request
head -c $((MAX + 1)) >"$request"
[ "$(stat -c %s "$request")" -le $MAX ] || refuse InvalidRequest "the request is longer than $MAX bytes"
iconv -f utf-8 -t utf-8 "$request" >/dev/null 2>&1 || refuse InvalidRequest "the request is not UTF-8"
# One line: what is wrong, or what is asked. Unknown fields, missing ones and other types are refused.
line=$(jq -rs --arg p "$PROTOCOL" '
    def only($names): type == "object" and (keys - $names == []);
    def target: only(["uid", "machineDir"]) and (.uid | type == "string") and (.machineDir | type == "string");
    {capabilities: [], check: ["config"], prepare: ["target", "config"], start: ["target", "config", "guest", "identity", "restore"],
     inspect: ["target"], halt: ["target", "halt"], kill: ["target"], delete: ["target"]} as $verbs
    | if length != 1 or (.[0] | type != "object" or (.protocol | type != "string") or (.verb | type != "string"))
      then "InvalidRequest" else .[0] | .verb as $v
    | if .protocol != $p then "UnsupportedProtocol"
      elif $verbs | has($v) | not then "UnsupportedVerb"
      elif only(["protocol", "verb"] + $verbs[$v]) | not then "InvalidRequest"
      elif ($verbs[$v] - ["config", "restore"]) - keys != [] then "InvalidRequest"
      elif has("target") and (.target | target | not) then "InvalidRequest"
      elif has("target") and ((.target.uid | test("\\A[a-z0-9-]{1,63}\\z")) and (.target.machineDir | test("\\A/[^\n]*\\z")) | not) then "InvalidRequest"
      elif has("halt") and (.halt | only(["graceSeconds", "noWait"]) and (.graceSeconds | type == "number" and . >= 0 and . <= 3600) | not)
      then "InvalidRequest"
      else "ok \($v) \(.target.uid // "-") \(.target.machineDir // "-")" end end' "$request" 2>/dev/null) || line=InvalidRequest
[[ $line == ok\ * ]] || refuse "$line" "the request is not one of this supervisor's"
read -r _ verb uid dir <<<"$line"

case $verb in
capabilities) say '{capabilities: {backend: "Sample", version: "1", accelerators: ["tcg"], maxVcpus: 64,
    verbs: ["capabilities", "check", "prepare", "start", "inspect", "halt", "kill", "delete"]}}' ;;
check) say '{checks: [{name: "Shell", status: "ok", message: "bash"}]}' ;;
prepare)
    configured
    mkdir -p -m 700 "$dir"
    observe
    [ "$(state)" != absent ] || machine=$(jq -c '.state = "prepared"' <<<"$machine")
    ;;
start)
    [ "$(jq -r .identity.uid "$request")" = "$uid" ] || refuse IdentityMismatch "the identity is of another machine"
    mkdir -p -m 700 "$dir"
    settle
    boot=$(jq .identity.bootId "$request")
    if [ "$(jq .identity.bootId <<<"$machine")" != "$boot" ]; then
        [ -n "$mine" ] || refuse MachineRunning "it runs as another boot"
        configured
        jq -e 'has("restore") | not' "$request" >/dev/null || refuse UnsupportedConfig "there are no snapshots to start from"
        self=$(realpath "$0")
        jq -c '{uid: .target.uid, state: "running", identity}' "$request" >"$work/born"
        cat < <(cd "$dir" && exec setsid "$self" machine "$uid" <"$work/born" 2>/dev/null)
        observe
    fi
    ;;
inspect) observe ;;
halt) stop TERM "$(jq 'if .halt.noWait then 0 else .halt.graceSeconds + 10 end' "$request")" ;;
kill) stop KILL 10 ;;
delete)
    if [ -d "$dir" ]; then
        stop KILL 10
        rm -f "$dir"/machine.json "$dir"/machine.json.[0-9]*
    fi
    machine=$(jq -nc --arg u "$uid" '{uid: $u, state: "absent"}')
    ;;
esac
say "{machine: $machine}"
