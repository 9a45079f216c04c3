#!/usr/bin/env python3
"""A supervisor in one file. Its machines are processes that wait for their end; a real one would start a VMM in `machine`."""

import fcntl, json, os, re, signal, subprocess, sys, time
from datetime import datetime, timezone

PROTOCOL, MAX_BYTES = "supervisor.microagent.dev/v1", 32 << 20
VERBS = ["capabilities", "check", "prepare", "start", "inspect", "halt", "kill", "delete"]
TARGET = {"uid": str, "machineDir": str}
# What a request may hold beside protocol and verb; a `?` marks what may be absent.
FIELDS = {verb: {"target": TARGET} for verb in VERBS} | {
    "capabilities": {},
    "check": {"config?": dict},
    "prepare": {"target": TARGET, "config": dict},
    "start": {"target": TARGET, "config": dict, "guest": dict, "restore?": dict,
              "identity": {"uid": str, "name": str, "generation": int, "bootId": str}},
    "halt": {"target": TARGET, "halt": {"graceSeconds": int, "noWait?": bool}},
}
REMEDIES = {"InvalidRequest": "compare the request with the protocol's JSON Schema", "MachineRunning": "halt it first",
            "UnsupportedProtocol": "install programs of one release", "UnsupportedVerb": "ask `capabilities`",
            "FileUnavailable": "see that the file is there", "IdentityMismatch": "give each machine its own directory"}


class Refused(Exception):
    def __init__(self, code, message):
        retryable = code in ("ShimLost", "Host")
        self.body = {"code": code, "message": message, "retryable": retryable,
                     "remediation": REMEDIES.get(code, "read the message")}


def shaped(value, shape, where):
    """Refuses unknown fields, missing ones and other types."""
    if not isinstance(shape, dict):
        if not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
            raise Refused("InvalidRequest", f"{where} is no {shape.__name__}")
        return
    if not isinstance(value, dict):
        raise Refused("InvalidRequest", f"{where} is no object")
    for name in value:
        if name not in shape and name + "?" not in shape:
            raise Refused("InvalidRequest", f"{where}.{name} is unknown")
    for name, inner in shape.items():
        if name.rstrip("?") in value:
            shaped(value[name.rstrip("?")], inner, f"{where}.{name}")
        elif not name.endswith("?"):
            raise Refused("InvalidRequest", f"{where}.{name} is missing")


def decode(data):
    if len(data) > MAX_BYTES:
        raise Refused("InvalidRequest", f"the request is longer than {MAX_BYTES} bytes")
    try:
        request = json.loads(data.decode())
        protocol, verb = request["protocol"], request["verb"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused("InvalidRequest", f"the request is not one: {error!r}")
    if protocol != PROTOCOL:
        raise Refused("UnsupportedProtocol", f"this supervisor speaks {PROTOCOL}")
    if not isinstance(verb, str) or verb not in VERBS:
        raise Refused("UnsupportedVerb", f"there is no verb {verb}")
    shaped(request, FIELDS[verb] | {"protocol": str, "verb": str}, "request")
    if "target" in request:
        uid, path = request["target"]["uid"], request["target"]["machineDir"]
        if not re.fullmatch("[a-z0-9-]{1,63}", uid) or not path.startswith("/"):
            raise Refused("InvalidRequest", "the UID or the directory is not as it should be")
    return request


def configured(config):
    if not 1 <= config.get("vcpus", 0) <= 64 or config.get("memoryMib", 0) < 64:
        raise Refused("UnsupportedConfig", "between 1 and 64 CPUs, and 64 MiB or more, can be had")
    if any(backend in config for backend in ("qemu", "firecracker", "appleVf")):
        raise Refused("UnsupportedConfig", "these are another backend's options")
    for path in [config["kernel"]["path"], config["initramfs"]] + [disk["path"] for disk in config["disks"]]:
        if not os.path.isabs(path) or not os.path.isfile(path):
            raise Refused("FileUnavailable", f"{path} is not there")


def now():
    return datetime.now(timezone.utc).isoformat()


def started(pid):
    """When a process began: what tells it from a later one with its pid."""
    try:
        state, *rest = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
        return None if state == "Z" else int(rest[18])
    except (OSError, IndexError):
        return None


def save(path, machine):
    """Whole or not at all, whenever this process is killed."""
    with open(f"{path}/machine.json.new", "w") as file:
        json.dump(machine, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}/machine.json.new", f"{path}/machine.json")


def load(path):
    try:
        return json.load(open(f"{path}/machine.json"))
    except FileNotFoundError:
        return None


def claim(path):
    """The directory's lock. The machine inherits it: while it is held, a machine runs or is about to. None when somebody has it."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return folder
    except BlockingIOError:
        os.close(folder)
        return None


def alive(machine):
    owner = (machine or {}).get("owner")
    return owner is not None and started(owner["pid"]) == owner["startTime"]


def ended(path, machine, failure=None):
    machine = {key: value for key, value in machine.items() if key != "owner"}
    machine |= {"state": "exited", "finishedAt": now()}
    if failure:
        machine["failure"] = failure.body
    save(path, machine)
    return machine


def observe(target):
    path, machine = target["machineDir"], load(target["machineDir"])
    if machine is None:
        return {"uid": target["uid"], "state": "absent"}
    if machine["uid"] != target["uid"]:
        raise Refused("IdentityMismatch", f"{path} is the directory of {machine['uid']}")
    if machine["state"] == "exited" or alive(machine):
        return machine
    machine = load(path) or machine  # its last word may have come between the two looks
    return machine if machine["state"] == "exited" else ended(path, machine, Refused("ShimLost", "it ended without a record"))


def settled(target):
    """What is so once no other `start` is about to make a machine."""
    path, until = target["machineDir"], time.monotonic() + 10
    while True:
        folder = claim(path) if os.path.isdir(path) else None
        machine = observe(target)
        if folder is not None or not os.path.isdir(path) or alive(machine):
            return machine, folder
        if time.monotonic() > until:
            raise Refused("MachineBusy", "another call is at work here")
        time.sleep(0.01)


def start(request):
    target, identity = request["target"], request["identity"]
    if identity["uid"] != target["uid"]:
        raise Refused("IdentityMismatch", f"the identity is of {identity['uid']}")
    os.makedirs(target["machineDir"], 0o700, exist_ok=True)
    machine, folder = settled(target)
    if machine["state"] != "absent" and machine["identity"]["bootId"] == identity["bootId"]:
        return machine
    if folder is None:
        raise Refused("MachineRunning", f"it runs as boot {machine['identity']['bootId']}")
    configured(request["config"])
    if "restore" in request:
        raise Refused("UnsupportedConfig", "there are no snapshots to start from")
    child = subprocess.Popen([sys.executable, os.path.abspath(__file__), "machine"], cwd=target["machineDir"], pass_fds=[folder],
                             start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with child.stdin:
        child.stdin.write(json.dumps({"uid": target["uid"], "state": "running", "identity": identity}).encode())
    child.stdout.read()
    return observe(target)


def machine():
    """The machine itself. It keeps the lock that it was born with, and writes its own record."""
    mine = json.loads(sys.stdin.buffer.read())
    mine |= {"owner": {"pid": os.getpid(), "startTime": started(os.getpid())}, "startedAt": now()}
    mine["guest"] = {"ready": True, "setupComplete": True, "workloadStartedAt": mine["startedAt"]}

    def halted(*_):
        mine["guest"] |= {"workloadExit": {"signal": 15}, "workloadFinishedAt": now()}
        ended(".", mine)
        os._exit(0)

    signal.signal(signal.SIGTERM, halted)
    save(".", mine)
    os.close(1)  # what `start` waits for
    while True:
        signal.pause()


def stop(target, sort, wait=None):
    path, found = target["machineDir"], settled(target)[0]
    if not alive(found):
        return found
    pid, until = found["owner"]["pid"], time.monotonic() + (10 if wait is None else wait)
    os.kill(pid, sort)
    if wait == 0:
        return observe(target)
    while alive(found) and time.monotonic() < until:
        time.sleep(0.01)
    if alive(found):
        return stop(target, signal.SIGKILL)
    latest = load(path)
    return latest if latest["state"] == "exited" else ended(path, latest)


def delete(target):
    path = target["machineDir"]
    if os.path.isdir(path):
        stop(target, signal.SIGKILL)
        for name in ["machine.json", "machine.json.new"]:
            if os.path.exists(f"{path}/{name}"):
                os.remove(f"{path}/{name}")
    return {"uid": target["uid"], "state": "absent"}


def carry_out(request):
    verb, target = request["verb"], request.get("target")
    if verb == "capabilities":
        return {"capabilities": {"backend": "Sample", "version": "1", "verbs": VERBS, "accelerators": ["tcg"], "maxVcpus": 64}}
    if verb == "check":
        return {"checks": [{"name": "Python", "status": "ok", "message": sys.version.split()[0]}]}
    if verb == "prepare":
        configured(request["config"])
        os.makedirs(target["machineDir"], 0o700, exist_ok=True)
        found = observe(target)
        return {"machine": found | ({"state": "prepared"} if found["state"] == "absent" else {})}
    if verb == "start":
        return {"machine": start(request)}
    if verb == "halt":
        grace = request["halt"]["graceSeconds"]
        if not 0 <= grace <= 3600:
            raise Refused("InvalidRequest", "a grace period has 0 to 3600 seconds")
        return {"machine": stop(target, signal.SIGTERM, 0 if request["halt"].get("noWait") else grace + 10)}
    if verb == "kill":
        return {"machine": stop(target, signal.SIGKILL)}
    return {"machine": delete(target) if verb == "delete" else observe(target)}


def main():
    answer = {"protocol": PROTOCOL, "ok": True}
    try:
        answer |= carry_out(decode(sys.stdin.buffer.read(MAX_BYTES + 1)))
    except Refused as refused:
        answer |= {"ok": False, "error": refused.body}
    except OSError as error:
        answer |= {"ok": False, "error": Refused("Host", str(error)).body}
    print(json.dumps(answer))
    sys.exit(0 if answer["ok"] else 1)


machine() if sys.argv[1:] == ["machine"] else main()
