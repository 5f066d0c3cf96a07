"""Holds a Tinker server: starts it, says when it is ready, and ends it with all of its children.

Usage: hold.py LOG URL KEY MODEL -- COMMAND... The server is ended when standard input ends, so that it never outlives
whoever started this, however that went. Prints `ready`, or `failed: ` and why, and exits when the server is gone.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

# An engine loads its model and compiles; a server's answer to `healthz` says nothing of it.
PATIENCE = 400
# From the request to end to the order to.
GRACE = 15


class Probe:
    """Asks a server for a model of its own, which only a working engine makes."""

    def __init__(self, url, key, model):
        self.url, self.key, self.model = url, key, model
        # Nobody's proxy stands between us and loopback.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(self, path, body):
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}",
            json.dumps(body).encode(),
            # Twinkle wants each request to have an id.
            {"Content-Type": "application/json", "X-API-Key": self.key, "X-Request-Id": "tinkers-peer"},
        )
        with self.opener.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def future(self, promise):
        while True:
            answer = self.post("retrieve_future", {"request_id": promise["request_id"]})
            if answer.get("type") != "try_again":
                return answer
            time.sleep(0.2)

    def healthy(self):
        try:
            with self.opener.open(f"{self.url}/api/v1/healthz", timeout=5):
                return True
        except OSError:
            return False

    def works(self):
        session = self.post("create_session", {"tags": [], "user_metadata": {}, "sdk_version": "0.25.0"})
        body = {"session_id": session["session_id"], "model_seq_id": 0, "base_model": self.model}
        made = self.future(self.post("create_model", {**body, "lora_config": {"rank": 8, "seed": 1}}))
        # Hatchery reads the id from the query, and unloads at once.
        unloaded = self.post(f"unload_model?model_id={made['model_id']}", {"model_id": made["model_id"]})
        if "request_id" in unloaded:
            self.future(unloaded)


# Statuses of a server that answers `healthz` before all of its parts have started, by a part of its start command.
STARTING = {"start_twinkle.py": (404, 502, 503)}


def describe(error):
    return f"{error.url} answered {error.code}: {error.read(500).decode(errors='replace')}"


def ready(server, probe, ended, starting):
    """None once the server works, else what went wrong. Repeats requests that are answered with a status in `starting`."""
    outcome = []
    last_error = "none"

    def work():
        nonlocal last_error
        try:
            while not probe.healthy():
                time.sleep(0.2)
            while not outcome and not ended.is_set():
                try:
                    probe.works()
                    outcome.append(None)
                except urllib.error.HTTPError as error:
                    last_error = describe(error)
                    if error.code not in starting:
                        outcome.append(last_error)
                    time.sleep(1)
        except Exception as error:
            outcome.append(f"the first model was not made: {type(error).__name__}: {error}")

    limit = time.monotonic() + PATIENCE
    threading.Thread(target=work, daemon=True).start()
    while not outcome:
        if server.poll() is not None:
            return f"the server ended with {server.returncode}"
        if time.monotonic() > limit:
            return f"the server made no model in {PATIENCE} s; the last error: {last_error}"
        if ended.wait(0.2):
            return "nobody waits for the server any more"
    return outcome[0]


def end(server):
    """Ends the server's whole process group: kindly, then not."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + GRACE
        while signalled(server, kind) and time.monotonic() < limit:
            kind = 0
            time.sleep(0.1)


def signalled(server, kind):
    """Whether there was anybody left in the group to get the signal; 0 only asks."""
    # A child that ended stays in its group until it is waited for.
    server.poll()
    try:
        os.killpg(server.pid, kind)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main():
    log, url, key, model, mark, *command = sys.argv[1:]
    assert mark == "--" and command, "the server's command is missing"
    ended = threading.Event()
    # Ctrl-C reaches the whole terminal, this included: the end of standard input is what counts. Handlers, unlike
    # ignored signals, are not inherited by the server.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with open(log, "wb") as out:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )

    def read():
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        starting = [status for part, statuses in STARTING.items() if part in " ".join(command) for status in statuses]
        why = ready(server, Probe(url, key, model), ended, starting)
        print("ready" if why is None else f"failed: {why}", flush=True)
        while why is None and not ended.wait(0.2) and server.poll() is None:
            pass
    finally:
        end(server)
    sys.stdout.flush()
    # The thread that reads is inside a lock that an orderly exit would wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
