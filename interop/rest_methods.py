"""Checks of the clients for management, RestClient and AdminClient: sessions, runs, checkpoints, usage and the audit log.

They run on a server of their own, so that totals are known.
"""

import datetime
import json
import urllib.error
import urllib.request
import uuid

from drive import MODEL, OTHER, TEXT, ask, batch, equal, prompt
from methods import Table, both, later

import tinker
from tinker import types

TABLE = Table()

RANK = 8
SAMPLES = 3
TOKENS = 5
PASSES = 2


class World:
    """What the checks look at: a session with a run, checkpoints, a sampler and known usage."""

    def __init__(self):
        # Tells this session apart from the others of the server.
        self.metadata = {"purpose": uuid.uuid4().hex}
        self.service = tinker.ServiceClient(user_metadata=self.metadata)
        self.rest = self.service.create_rest_client()
        self.admin = tinker.AdminClient() if hasattr(tinker, "AdminClient") else None
        self.client = ask(self.service.create_lora_training_client, base_model=MODEL, rank=RANK, seed=7)
        self.session = self.service.holder._session_id
        self.run = ask(self.client.get_info).model_id
        for _ in range(PASSES):
            ask(self.client.forward_backward, batch(), "cross_entropy")
        ask(self.client.optim_step, types.AdamParams(learning_rate=1e-3))
        self.path = ask(self.client.save_state, "kept").path
        self.weights = ask(self.client.save_weights_for_sampler, "weights").path
        self.sampler = ask(self.service.create_sampling_client, model_path=self.weights)
        params = types.SamplingParams(max_tokens=TOKENS, stop=[])
        ask(self.sampler.sample, prompt=prompt(TEXT), num_samples=SAMPLES, sampling_params=params)
        self.saved = 2

    def save(self):
        """Saves a state that a check may change or delete, and returns its path."""
        self.saved += 1
        return ask(self.client.save_state, f"state-{self.saved}").path

    def checkpoint(self, path):
        """The checkpoint at a path, or None."""
        run = path.removeprefix("tinker://").split("/")[0]
        listed = ask(self.rest.list_checkpoints, run).checkpoints
        return next((one for one in listed if one.tinker_path == path), None)

    def managers(self):
        """The clients that report usage and the audit log: both in newer releases."""
        return [client for client in (self.rest, self.admin) if client is not None]


# === Sessions and samplers


@TABLE.proves("RestClient.get_server_capabilities")
def the_rest_client_tells_the_capabilities(world):
    models = ask(world.rest.get_server_capabilities).supported_models
    assert MODEL in [model.model_name for model in models], f"models are {models}"


@TABLE.proves("RestClient.get_session", "RestClient.get_session_async")
def a_session_has_its_runs_and_samplers(world):
    found = both(world.rest, "get_session", world.session)
    equal(found.training_run_ids, [world.run], "training_run_ids")
    equal(found.sampler_ids, [world.sampler._sampling_session_id], "sampler_ids")
    if hasattr(found, "user_metadata"):
        equal(found.user_metadata, world.metadata, "user_metadata")


@TABLE.proves("RestClient.list_sessions", "RestClient.list_sessions_async")
def sessions_are_listed_in_pages(world):
    everything = both(world.rest, "list_sessions", limit=100).sessions
    assert world.session in everything, f"{world.session} is not among {everything}"
    equal(ask(world.rest.list_sessions, limit=1, offset=len(everything) - 1).sessions, everything[-1:], "the last page")
    equal(ask(world.rest.list_sessions, limit=1, offset=len(everything)).sessions, [], "the page after the last")


@TABLE.proves("RestClient.search_sessions")
def sessions_are_found_by_their_metadata(world):
    found = ask(world.rest.search_sessions, types.SessionSearchRequest(user_metadata=world.metadata))
    equal([one.session_id for one in found.sessions], [world.session], "sessions")
    summary = found.sessions[0]
    sizes = [one.size_bytes for one in ask(world.rest.list_checkpoints, world.run).checkpoints]
    equal(summary.checkpoints_count, len(sizes), "checkpoints_count")
    equal(summary.checkpoint_storage_bytes, sum(sizes), "checkpoint_storage_bytes")
    other = types.SessionSearchRequest(user_metadata={"purpose": "none"})
    equal(ask(world.rest.search_sessions, other).sessions, [], "sessions of other metadata")


@TABLE.proves("RestClient.assign_session_project", "RestClient.assign_session_project_async")
def a_session_moves_between_projects(world):
    service = tinker.ServiceClient()
    ask(service.create_lora_training_client, base_model=MODEL, rank=RANK)
    session = service.holder._session_id
    (run,) = ask(world.rest.get_session, session).training_run_ids
    for assign, project in (
        (lambda *move: ask(world.rest.assign_session_project, *move), "project-one"),
        (lambda *move: later(world.rest.assign_session_project_async, *move), "project-two"),
    ):
        assign(session, project)
        listed = ask(world.rest.list_training_runs, project_id=project).training_runs
        equal([one.training_run_id for one in listed], [run], f"runs of {project}")
    equal(ask(world.rest.list_training_runs, project_id="project-one").training_runs, [], "runs of the old project")
    logged(world, "projects", "session_project_assigned", 2)


@TABLE.proves("RestClient.get_sampler", "RestClient.get_sampler_async")
def a_sampler_has_its_model_and_weights(world):
    found = both(world.rest, "get_sampler", world.sampler._sampling_session_id)
    equal((found.base_model, found.model_path), (MODEL, world.weights), "(base_model, model_path)")


@TABLE.proves("RestClient.whoami")
def the_holder_of_the_key_is_known(world):
    found = ask(world.rest.whoami)
    assert found.user_urn.startswith("tml:user:"), f"user_urn is {found.user_urn}"
    if hasattr(found, "org_urn"):
        assert found.org_urn.startswith("tml:organization:"), f"org_urn is {found.org_urn}"
    if hasattr(found, "email") and found.email is not None:
        assert "@" in found.email, f"email is {found.email}"


@TABLE.proves("RestClient.export_session_trace", "RestClient.export_session_trace_async")
def a_trace_has_what_the_session_did(world):
    ways = [ask(world.rest.export_session_trace, world.session)]
    ways.append(later(world.rest.export_session_trace_async, world.session))
    for url in ways:
        spans = trace_at(url)
        for name in ("forward_backward", "optim_step", "save_weights", "asample"):
            assert name in spans, f"no {name} among {sorted(set(spans))}"
    try:
        trace_at(f"{ways[0]}x")
    except urllib.error.HTTPError as error:
        equal(error.code, 404, "status of a false address")
        return
    raise AssertionError("a false address has a trace")


def trace_at(url):
    """The names of the spans of the trace at an address, which answers without a key."""
    with urllib.request.urlopen(url, timeout=20) as response:
        content = json.load(response)
    events = content["traceEvents"] if isinstance(content, dict) else content
    return [event.get("name") for event in events]


@TABLE.proves("RestClient.get_telemetry", "AdminClient.get_telemetry")
def telemetry_that_is_off_is_none(world):
    for client in world.managers():
        equal(client.get_telemetry(), None, "telemetry")


# === Runs


@TABLE.proves("RestClient.get_training_run", "RestClient.get_training_run_async")
def a_run_is_described(world):
    found = both(world.rest, "get_training_run", world.run)
    equal((found.base_model, found.is_lora, found.lora_rank), (MODEL, True, RANK), "(base_model, is_lora, lora_rank)")
    equal(found.last_sampler_checkpoint.tinker_path, world.weights, "last_sampler_checkpoint")


@TABLE.proves("RestClient.get_training_run_by_tinker_path", "RestClient.get_training_run_by_tinker_path_async")
def a_path_leads_to_its_run(world):
    found = both(world.rest, "get_training_run_by_tinker_path", world.path)
    equal(found.training_run_id, world.run, "training_run_id")


@TABLE.proves("RestClient.list_training_runs", "RestClient.list_training_runs_async")
def runs_are_listed_in_pages(world):
    found = both(world.rest, "list_training_runs", limit=100)
    runs = [one.training_run_id for one in found.training_runs]
    assert world.run in runs, f"{world.run} is not among {runs}"
    equal(found.cursor.total_count, len(runs), "total_count")
    page = ask(world.rest.list_training_runs, limit=1, offset=len(runs) - 1)
    equal([one.training_run_id for one in page.training_runs], runs[-1:], "the last page")


# === Checkpoints


@TABLE.proves("RestClient.get_weights_info_by_tinker_path")
def weights_are_described_by_their_path(world):
    info = ask(world.rest.get_weights_info_by_tinker_path, world.path)
    equal((info.base_model, info.is_lora, info.lora_rank), (MODEL, True, RANK), "(base_model, is_lora, lora_rank)")


@TABLE.proves("RestClient.list_checkpoints", "RestClient.list_checkpoints_async")
def the_checkpoints_of_a_run_are_listed(world):
    found = {one.tinker_path: one for one in both(world.rest, "list_checkpoints", world.run).checkpoints}
    equal(found[world.path].checkpoint_type, "training", "type of the state")
    equal(found[world.weights].checkpoint_type, "sampler", "type of the weights")
    for one in found.values():
        assert one.size_bytes > 0, f"{one.tinker_path} has {one.size_bytes} bytes"


@TABLE.proves("RestClient.list_user_checkpoints", "RestClient.list_user_checkpoints_async")
def the_checkpoints_of_a_user_are_listed(world):
    found = both(world.rest, "list_user_checkpoints", limit=100)
    paths = [one.tinker_path for one in found.checkpoints]
    assert {world.path, world.weights} <= set(paths), f"checkpoints are {paths}"
    equal(found.cursor.total_count, len(paths), "total_count")
    page = ask(world.rest.list_user_checkpoints, limit=1, offset=1)
    equal([one.tinker_path for one in page.checkpoints], paths[1:2], "the second page")


@TABLE.proves(
    "RestClient.publish_checkpoint_from_tinker_path",
    "RestClient.publish_checkpoint_from_tinker_path_async",
    "RestClient.unpublish_checkpoint_from_tinker_path",
    "RestClient.unpublish_checkpoint_from_tinker_path_async",
)
def a_checkpoint_is_published_and_unpublished(world):
    path, rest = world.save(), world.rest
    publish, unpublish = rest.publish_checkpoint_from_tinker_path, rest.unpublish_checkpoint_from_tinker_path
    later_publish = rest.publish_checkpoint_from_tinker_path_async
    later_unpublish = rest.unpublish_checkpoint_from_tinker_path_async
    for change, public in (
        (lambda: ask(publish, path), True),
        (lambda: ask(unpublish, path), False),
        (lambda: later(later_publish, path), True),
        (lambda: later(later_unpublish, path), False),
    ):
        change()
        equal(world.checkpoint(path).public, public, "public")
    logged(world, "checkpoints", "checkpoint_published", 2, path)
    logged(world, "checkpoints", "checkpoint_unpublished", 2, path)


@TABLE.proves(
    "RestClient.set_checkpoint_ttl_from_tinker_path", "RestClient.set_checkpoint_ttl_from_tinker_path_async"
)
def the_expiry_of_a_checkpoint_is_set_and_removed(world):
    path, rest = world.save(), world.rest
    ask(rest.set_checkpoint_ttl_from_tinker_path, path, 7200)
    left = world.checkpoint(path).expires_at - datetime.datetime.now(datetime.timezone.utc)
    assert 7000 < left.total_seconds() <= 7200, f"the checkpoint expires in {left}"
    later(rest.set_checkpoint_ttl_from_tinker_path_async, path, None)
    equal(world.checkpoint(path).expires_at, None, "expires_at")
    logged(world, "checkpoints", "checkpoint_ttl_set", 2, path)


@TABLE.proves(
    "RestClient.delete_checkpoint",
    "RestClient.delete_checkpoint_async",
    "RestClient.delete_checkpoint_from_tinker_path",
    "RestClient.delete_checkpoint_from_tinker_path_async",
)
def a_deleted_checkpoint_is_not_listed(world):
    rest = world.rest
    by_id = lambda path: (world.run, path.split("/", 3)[3])
    for delete in (
        lambda path: ask(rest.delete_checkpoint, *by_id(path)),
        lambda path: later(rest.delete_checkpoint_async, *by_id(path)),
        lambda path: ask(rest.delete_checkpoint_from_tinker_path, path),
        lambda path: later(rest.delete_checkpoint_from_tinker_path_async, path),
    ):
        path = world.save()
        assert world.checkpoint(path) is not None, f"{path} is not listed"
        delete(path)
        equal(world.checkpoint(path), None, "the checkpoint")
        logged(world, "checkpoints", "checkpoint_deleted", 1, path)


@TABLE.proves("RestClient.copy_weights", "RestClient.copy_weights_async")
def a_copy_belongs_to_its_project(world):
    for project, copy in (
        ("copies-one", lambda *of: ask(world.rest.copy_weights, *of)),
        ("copies-two", lambda *of: later(world.rest.copy_weights_async, *of)),
    ):
        path = copy(world.path, project)
        assert path != world.path and path.endswith("/weights/kept"), f"the copy of {world.path} is {path}"
        equal(world.checkpoint(path).checkpoint_type, "training", "type of the copy")
        info = ask(world.rest.get_weights_info_by_tinker_path, path)
        equal((info.base_model, info.lora_rank), (MODEL, RANK), "(base_model, lora_rank) of the copy")
        equal([one.checkpoint_count for one in storage(world.rest, project).data], [1], f"checkpoints of {project}")
        logged(world, "checkpoints", "checkpoint_copied", 1, path)


# === Usage and the audit log


def period():
    """A period of full hours around the present one."""
    hour = datetime.datetime.now(datetime.timezone.utc).replace(minute=0, second=0, microsecond=0)
    return hour - datetime.timedelta(hours=2), hour + datetime.timedelta(hours=2)


def storage(client, project=None):
    return ask(client.get_current_checkpoint_storage_usage, project)


@TABLE.proves(
    "RestClient.get_billing_usage",
    "RestClient.get_billing_usage_async",
    "AdminClient.get_billing_usage",
    "AdminClient.get_billing_usage_async",
)
def usage_counts_what_the_session_did(world):
    expected = {
        "training": PASSES * (len(TEXT) - 1 + len(OTHER) - 1),
        "sampling_prefill": len(TEXT),
        "sampling_sample": SAMPLES * TOKENS,
        "checkpoint": world.saved,
    }
    for client in world.managers():
        usage = both(client, "get_billing_usage", *period())
        found = {}
        for event in usage.data:
            if event.session_id == world.session:
                equal(event.base_model, MODEL, "base_model")
                info = event.event_info
                amount = info.count if info.type == "checkpoint" else info.token_count
                found[info.type] = found.get(info.type, 0) + amount
        equal(found, expected, "usage of the session")
        equal(usage.sessions[world.session].user_metadata, world.metadata, "user_metadata")


@TABLE.proves(
    "RestClient.get_current_checkpoint_storage_usage",
    "RestClient.get_current_checkpoint_storage_usage_async",
    "AdminClient.get_current_checkpoint_storage_usage",
    "AdminClient.get_current_checkpoint_storage_usage_async",
)
def storage_counts_the_checkpoints_that_exist(world):
    sizes = [one.size_bytes for one in ask(world.rest.list_user_checkpoints, limit=100).checkpoints]
    for client in world.managers():
        found = both(client, "get_current_checkpoint_storage_usage").data
        equal(sum(one.checkpoint_count for one in found), len(sizes), "checkpoint_count")
        equal(sum(one.size_bytes for one in found), sum(sizes), "size_bytes")
        for one in found:
            equal(one.size_gigabytes, one.size_bytes / 1e9, "size_gigabytes")


def entries(client, kind, event, path=None):
    """The entries of an event in the audit log of today; around midnight, those of yesterday too."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    days = (today - datetime.timedelta(days=1), today)
    found = [entry for day in days for entry in ask(client.get_audit_log, kind, day).entries if entry.event == event]
    if path is not None and found and hasattr(found[0], "event_details"):
        return [entry for entry in found if entry.event_details.get("tinker_path") == path]
    return found


def logged(world, kind, event, count, path=None):
    """The audit log has this number of entries of an event. Releases up to 0.24 do not read of which checkpoint."""
    found = entries(world.rest, kind, event, path)
    if path is None or world.admin is not None:
        equal(len(found), count, f"entries of {event}")
    assert len(found) >= count, f"{len(found)} entries of {event}"


@TABLE.proves(
    "RestClient.get_audit_log",
    "RestClient.get_audit_log_async",
    "AdminClient.get_audit_log",
    "AdminClient.get_audit_log_async",
)
def the_audit_log_has_changes_by_kind(world):
    path = world.save()
    ask(world.rest.publish_checkpoint_from_tinker_path, path)
    for client in world.managers():
        for kind, event in (("checkpoints", "checkpoint_published"), ("all", "checkpoint_published")):
            assert entries(client, kind, event, path), f"no {event} among {kind}"
        equal(entries(client, "projects", "checkpoint_published"), [], "checkpoints among projects")
        log = ask(client.get_audit_log)
        equal(audit_log_async(world, client), log, "get_audit_log_async")
        times = [entry.timestamp for entry in log.entries]
        equal(times, sorted(times), "times of the entries")


def audit_log_async(world, client):
    if world.admin is not None:
        return later(client.get_audit_log_async)
    # Releases up to 0.24 send this request from the loop of the caller, which must be their own.
    return ask(world.service.holder.run_coroutine_threadsafe, client.get_audit_log_async())


# === External weights, and the archives of older releases


@TABLE.leaves_out(
    "the embedded server stores no external weights",
    tinker.NotFoundError,
    "RestClient.get_external_weights_urls",
    "RestClient.get_external_weights_urls_async",
)
def external_weights(world, client, name):
    return getattr(world.rest, name)(f"tinker://{world.run}/external_weights/none")


@TABLE.leaves_out(
    "the embedded server builds no archives",
    tinker.NotFoundError,
    "RestClient.get_checkpoint_archive_url",
    "RestClient.get_checkpoint_archive_url_async",
)
def archives(world, client, name):
    return getattr(world.rest, name)(world.run, "weights/kept")


@TABLE.leaves_out(
    "the embedded server builds no archives",
    tinker.NotFoundError,
    "RestClient.get_checkpoint_archive_url_from_tinker_path",
    "RestClient.get_checkpoint_archive_url_from_tinker_path_async",
)
def archives_by_path(world, client, name):
    return getattr(world.rest, name)(world.path)
