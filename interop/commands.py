"""Checks of every command of the official program `tinker`, with tables and with JSON.

Each command of the installed release has a row: the check that runs it, or the reason why it has none.
"""

import csv
import functools
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import click

from drive import MODEL, ask, equal
from methods import both
from rest_methods import RANK, period

import tinker
from tinker.cli.__main__ import main_cli

# The time limit of one command, in seconds.
COMMAND = 60

# The program of 0.38.0 ended by SIGABRT in 3 of about 500 runs, with its whole output and nothing on stderr. The cause
# is unknown. What a command printed and changed is checked all the same, and more aborts in one run are a failure.
MOST_ABORTS = 4

CHECKS = {}
REASONS = {}


def proves(command):
    """Declares that a check runs this command."""

    def declare(check):
        CHECKS[command] = check
        return check

    return declare


def leaves_out(command, reason, *said):
    """Declares why a command has no check; the attempt fails, and prints one of `said`."""

    def declare(attempt):
        REASONS[command] = (reason, said, attempt)
        return attempt

    return declare


def commands_of(command, path=()):
    """The commands of the program that are no groups."""
    if not isinstance(command, click.Group):
        return {" ".join(path)}
    context = click.Context(command)
    names = command.list_commands(context)
    return set().union(*(commands_of(command.get_command(context, name), (*path, name)) for name in names))


class Program:
    """The program `tinker` of this environment, with a home directory of its own."""

    def __init__(self, world):
        self.world = world
        self.aborts = 0
        self.directory = tempfile.mkdtemp()
        self.variables = {
            **os.environ,
            "HOME": self.directory,
            "USERPROFILE": self.directory,
            "XDG_CONFIG_HOME": self.directory,
            # A table is as wide as its content, and has no colours.
            "COLUMNS": "1000",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        suffix = ".exe" if os.name == "nt" else ""
        self.path = str(pathlib.Path(sys.executable).with_name(f"tinker{suffix}"))

    def start(self, *words, typed="", **changes):
        """The ended process of a command. A variable that is changed to None is removed."""
        variables = {name: value for name, value in {**self.variables, **changes}.items() if value is not None}
        return subprocess.run(
            [self.path, *words],
            input=typed,
            env=variables,
            cwd=self.directory,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=COMMAND,
        )

    def text(self, *words, **options):
        """What a command prints, which succeeds."""
        ended = self.start(*words, **options)
        if ended.returncode == -signal.SIGABRT and not ended.stderr and self.aborts < MOST_ABORTS:
            self.aborts += 1
            print(f"       {words} aborted after its output, {self.aborts} of at most {MOST_ABORTS}")
            return ended.stdout
        assert ended.returncode == 0, f"{words} ended with {ended.returncode}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def json(self, *words):
        return json.loads(self.text("--format", "json", *words))

    def shows(self, words, *expected):
        """A table contains these texts."""
        table = self.text(*words)
        for text in expected:
            assert text in table, f"{words} shows no {text!r}: {table}"

    def fails(self, words, *said, **options):
        """A command fails, and names one of `said`."""
        ended = self.start(*words, **options)
        printed = ended.stdout + ended.stderr
        assert ended.returncode != 0, f"{words} succeeded: {printed}"
        assert any(text in printed for text in said), f"{words} names none of {said}: {printed}"


# === version and auth


@proves("version")
def the_version_is_that_of_the_sdk(program):
    equal(program.text("version"), f"tinker {tinker.__version__}\n", "output")
    equal(program.text("--format", "json", "version"), f"tinker {tinker.__version__}\n", "output with --format json")


@proves("auth whoami")
def whoami_names_the_user(program):
    who = ask(program.world.rest.whoami)
    found = program.json("auth", "whoami")
    equal((found["user_urn"], found["org_urn"], found["email"]), (who.user_urn, who.org_urn, who.email), "identity")
    program.shows(["auth", "whoami"], who.user_urn, who.org_urn)
    program.fails(["auth", "whoami"], "this API key is not the server's", TINKER_API_KEY="tml-somebody-else")


@proves("auth status")
def the_status_tells_whether_the_key_is_accepted(program):
    program.shows(["auth", "status"], "Credentials available: yes", "Tinker accessible: yes")
    program.fails(["auth", "status"], "Tinker accessible: no", TINKER_API_KEY="tml-somebody-else")
    program.fails(["auth", "status"], "Credentials available: no", TINKER_API_KEY=None)


@proves("auth login")
def a_key_is_stored_and_used(program):
    key = program.variables["TINKER_API_KEY"]
    program.fails(["auth", "login"], "Could not validate", typed="tml-somebody-else\n", TINKER_API_KEY=None)
    printed = program.text("auth", "login", typed=f"{key}\n", TINKER_API_KEY=None)
    assert "Logged in as" in printed and key not in printed, f"printed {printed}"
    assert "Tinker accessible: yes" in program.text("auth", "status", TINKER_API_KEY=None)
    program.fails(["auth", "login"], "Already logged in", typed=f"{key}\n", TINKER_API_KEY=None)


# Runs after the login, whose key it removes.
@proves("auth logout")
def a_stored_key_is_removed(program):
    printed = program.text("auth", "logout", TINKER_API_KEY=None)
    assert "Removed credential" in printed, f"printed {printed}"
    program.fails(["auth", "status"], "Credentials available: no", TINKER_API_KEY=None)
    program.fails(["auth", "logout"], "No default credential", TINKER_API_KEY=None)


# === Models, runs and sessions


@proves("model list")
def models_are_listed_and_filtered(program):
    (model,) = program.json("model", "list", "TINY")["models"]
    equal(model["model_name"], MODEL, "model_name")
    program.shows(["model", "list"], MODEL, str(model["max_context_length"]))
    program.fails(["model", "list", "no-such-model"], "No model name contains 'no-such-model'")


@proves("run list")
def runs_are_listed(program):
    runs = {run["training_run_id"]: run for run in program.json("run", "list", "--limit", "0")["runs"]}
    equal(runs[program.world.run]["base_model"], MODEL, "base_model")
    equal(len(program.json("run", "list", "--limit", "1")["runs"]), 1, "runs with --limit 1")
    columns = ["run", "list", "--limit", "0", "--columns", "id,lora,owner"]
    program.shows(columns, program.world.run, f"Rank {RANK}", "Owner")


@proves("run info")
def a_run_is_shown(program):
    run = program.json("run", "info", program.world.run)
    run = run.get("run", run)
    equal((run["training_run_id"], run["lora_rank"]), (program.world.run, RANK), "(training_run_id, lora_rank)")
    program.shows(["run", "info", program.world.run], program.world.run, MODEL)
    program.fails(["run", "info", "no-such-run"], "not found")


@proves("session export-trace")
def a_trace_is_downloaded(program):
    session = program.world.session
    path = pathlib.Path(program.directory, "trace.json")
    found = program.json("session", "export-trace", session, "--output", str(path))
    equal((found["session_id"], found["file_size_bytes"]), (session, path.stat().st_size), "(session_id, bytes)")
    assert json.loads(path.read_text()), f"{path} is empty"
    url = program.json("session", "export-trace", session, "--url-only")["url"]
    assert url.startswith(program.variables["TINKER_BASE_URL"]), f"url is {url}"
    program.shows(["session", "export-trace", session, "--url-only"], program.variables["TINKER_BASE_URL"])
    program.fails(["session", "export-trace", "no-such-session"], "not found")


# === Checkpoints


@proves("checkpoint list")
def checkpoints_are_listed(program):
    world = program.world
    expected = {one.tinker_path: one.size_bytes for one in ask(world.rest.list_checkpoints, world.run).checkpoints}
    found = program.json("checkpoint", "list", "--run-id", world.run)["checkpoints"]
    equal({one["tinker_path"]: one["size_bytes"] for one in found}, expected, "sizes of the checkpoints")
    everywhere = [one["tinker_path"] for one in program.json("checkpoint", "list", "--limit", "0")["checkpoints"]]
    assert set(expected) <= set(everywhere), f"checkpoints are {everywhere}"
    program.shows(["checkpoint", "list", "--run-id", world.run], *expected)


@proves("checkpoint info")
def a_checkpoint_is_shown(program):
    path = program.world.path
    found = program.json("checkpoint", "info", path)
    equal((found["tinker_path"], found["lora_rank"]), (path, RANK), "(tinker_path, lora_rank)")
    program.shows(["checkpoint", "info", path], path, "training", f"Yes (Rank {RANK})")
    program.fails(["checkpoint", "info", f"{path}-none"], "not found")


@proves("checkpoint publish")
def a_checkpoint_is_published(program):
    path = program.world.save()
    program.text("checkpoint", "publish", path)
    equal(program.json("checkpoint", "info", path)["public"], True, "public")
    # A second publication is not tried: the SDK repeats requests that get a 409 for minutes.
    program.fails(["checkpoint", "publish", f"{path}-none"], "not found")
    program.published = path


# Runs after the publication of the checkpoint that it takes back.
@proves("checkpoint unpublish")
def a_checkpoint_is_unpublished(program):
    program.text("--format", "json", "checkpoint", "unpublish", program.published)
    equal(program.world.checkpoint(program.published).public, False, "public")
    program.fails(["checkpoint", "unpublish", f"{program.published}-none"], "not found")


@proves("checkpoint set-ttl")
def the_expiry_is_set_and_removed(program):
    path = program.world.save()
    program.text("checkpoint", "set-ttl", path, "--ttl", "7200")
    assert program.world.checkpoint(path).expires_at is not None, "the checkpoint does not expire"
    program.text("--format", "json", "checkpoint", "set-ttl", path, "--remove")
    equal(program.world.checkpoint(path).expires_at, None, "expires_at")
    program.fails(["checkpoint", "set-ttl", path, "--ttl", "1"], "ttl_seconds", "TTL", "ttl")


@proves("checkpoint delete")
def checkpoints_are_deleted_by_path_and_by_run(program):
    world = program.world
    one, two = world.save(), world.save()
    program.text("checkpoint", "delete", one, typed="n\n")
    assert world.checkpoint(one) is not None, "the checkpoint was deleted without consent"
    program.text("checkpoint", "delete", one, "--yes")
    program.text("--format", "json", "checkpoint", "delete", two, "--yes")
    equal((world.checkpoint(one), world.checkpoint(two)), (None, None), "the checkpoints")
    client = ask(world.service.create_lora_training_client, base_model=MODEL, rank=RANK)
    run = ask(client.get_info).model_id
    state = ask(client.save_state, "state").path
    weights = ask(client.save_weights_for_sampler, "weights").path
    chosen = ["checkpoint", "delete", "--run-id", run, "--yes"]
    program.text(*chosen, "--before", "2020-01-01")
    equal(left_of(world, run), {state, weights}, "checkpoints after a deletion of older ones")
    program.text(*chosen, "--type", "sampler", "--after", "2020-01-01")
    equal(left_of(world, run), {state}, "checkpoints after a deletion of weights")
    program.text(*chosen)
    equal(left_of(world, run), set(), "checkpoints after a deletion of all")


def left_of(world, run):
    return {one.tinker_path for one in ask(world.rest.list_checkpoints, run).checkpoints}


# === Billing


def hours():
    return [time.strftime("%Y-%m-%dT%H:00:00Z") for time in period()]


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


@proves("billing usage")
def usage_is_printed_and_written(program):
    world = program.world
    expected = ask((world.admin or world.rest).get_billing_usage, *period())
    found = program.json("billing", "usage", *hours())
    of_session = lambda rows: sorted(row["type"] for row in rows if row["session_id"] == world.session)
    kinds = sorted(event.event_info.type for event in expected.data if event.session_id == world.session)
    rows = [{**row, **row["event_info"]} for row in found["data"]]
    equal(of_session(rows), kinds, "kinds of usage")
    equal(found["sessions"][world.session]["user_metadata"], world.metadata, "user_metadata")
    program.shows(["billing", "usage", *hours()], world.session, MODEL)
    equal(of_session(rows_of(program.text("billing", "usage", *hours(), "--csv", "-"))), kinds, "kinds of usage as CSV")
    path = pathlib.Path(program.directory, "sessions.csv")
    program.text("billing", "usage", *hours(), "--sessions-csv", str(path))
    sessions = {row["session_id"]: row["user_metadata"] for row in rows_of(path.read_text())}
    equal(json.loads(sessions[world.session]), world.metadata, "user_metadata as CSV")
    program.fails(["billing", "usage", "2026-01-01T00:30:00Z", "2026-01-02T00:00:00Z"], "full hour")


@proves("billing checkpoint-storage")
def storage_is_printed_and_written(program):
    admin = program.world.admin
    both(admin, "get_current_checkpoint_storage_usage")
    expected = ask(admin.get_current_checkpoint_storage_usage).data
    sizes = sorted(one.size_bytes for one in expected)
    found = program.json("billing", "checkpoint-storage")["data"]
    equal(sorted(one["size_bytes"] for one in found), sizes, "size_bytes")
    program.shows(["billing", "checkpoint-storage"], *(str(size) for size in sizes))
    rows = rows_of(program.text("billing", "checkpoint-storage", "--csv", "-"))
    equal(sorted(int(row["size_bytes"]) for row in rows), sizes, "size_bytes as CSV")
    none = program.json("billing", "checkpoint-storage", "--project-id", "no-such-project")
    equal(none["data"], [], "storage of an unknown project")


# === What needs more than the SDK and the server


@leaves_out("checkpoint download", "the embedded server stores no external weights and builds no archives", "not found")
def download(program):
    return ["checkpoint", "download", program.world.path, "--output", program.directory]


@leaves_out("checkpoint push-hf", "needs an account of the hub", "hf auth login", "Not logged in")
def push(program):
    return ["checkpoint", "push-hf", program.world.path, "--repo", "tinkers/none"]


def failing(command):
    """A check that passes while a command fails as expected, so that the reason goes when the command works."""
    reason, said, attempt = REASONS[command]

    def check(program):
        program.fails(attempt(program), *said)
        print(f"       tinker {command}: {reason}")

    check.__name__ = f"tinker {command} has a reason"
    return check


def every_command_has_one_row(found):
    equal(sorted(found - set(CHECKS) - set(REASONS)), [], "commands without a row")
    equal(sorted(set(CHECKS) & set(REASONS)), [], "commands with a check and a reason")


def run(checks, world):
    """Runs the rows of the commands that the release has."""
    found, program = commands_of(main_cli), Program(world)
    for command, check in CHECKS.items():
        if command in found:
            named = functools.partial(check, program)
            named.__name__ = f"tinker {command}: {check.__name__}"
            checks.run(named)
    for command in sorted(found.intersection(REASONS)):
        checks.run(failing(command), program)
    checks.run(every_command_has_one_row, found)
    left = found.intersection(REASONS)
    print(f"       {len(found)} commands: {len(found - left)} are checked, {len(left)} have a reason")
