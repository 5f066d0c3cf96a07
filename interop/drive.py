"""Drives a Tinker server with the official Python SDK, as a user's training script would.

`cargo xtask interop` runs this in one virtual environment per release of the SDK, with TINKER_BASE_URL and
TINKER_API_KEY set. Each check prints one line; the last line counts them, and the exit code is 0 only if all passed.
"""

import faulthandler
import logging
import math
import os
import sys
import threading
import warnings

import tinker
from tinker import types

MODEL = "tinkers/tiny"
TEXT = b"Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about a little."
OTHER = b"It is a way I have of driving off the spleen and regulating the circulation."
# No check may take longer than this; the SDK itself would retry some faults for hours.
PATIENCE = 120
# Nor may a single call of the SDK.
CALL = 60
# An error in what the caller said is known at once.
AT_ONCE = 20


class Checks:
    """Runs checks one by one, and counts."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def run(self, check, *arguments):
        name = check.__name__.replace("_", " ")
        try:
            result = within(PATIENCE, check, *arguments)
        except Exception as error:  # A failed check must not hide the ones behind it.
            self.failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}")
            return None
        self.passed += 1
        print(f"ok     {name}")
        return result


def within(seconds, call, *arguments):
    """The result of `call`, or TimeoutError. The thread of a call that hangs is left behind."""
    outcome = {}

    def work():
        try:
            outcome["value"] = call(*arguments)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer after {seconds} s")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def named(name, seconds, call):
    """The result of `call` within a limit. One that hangs is told by its name."""
    try:
        return within(seconds, call)
    except TimeoutError as error:
        raise TimeoutError(f"{name}: {error}") from None


def wait(name, future, seconds=CALL):
    """The result of a call that was made."""
    return named(name, seconds, future.result)


def ask(call, *arguments, **more):
    """The result of a call of the SDK, whether it comes at once or in a future."""
    name = getattr(call, "__name__", str(call))
    made = named(name, CALL, lambda: call(*arguments, **more))
    return wait(name, made) if hasattr(made, "result") else made


def settled(made):
    """What a client-creating call made: newer releases return a future of it, older ones the client itself."""
    return wait("the creation of a client", made) if hasattr(made, "result") else made


def equal(found, expected, what):
    assert found == expected, f"{what}: found {found!r}, expected {expected!r}"


def close(found, expected, tolerance, what):
    assert abs(found - expected) <= tolerance, f"{what}: found {found}, expected {expected}"


def prompt(text):
    return types.ModelInput.from_ints(list(text))


def datum(text, targets=None):
    """One training example: each byte predicts the next."""
    targets = list(text[1:]) if targets is None else targets
    return types.Datum(
        model_input=prompt(text[:-1]),
        loss_fn_inputs={
            "target_tokens": types.TensorData(data=targets, dtype="int64", shape=[len(targets)]),
            "weights": types.TensorData(data=[1.0] * len(targets), dtype="float32", shape=[len(targets)]),
        },
    )


def batch():
    return [datum(TEXT), datum(OTHER)]


def new_client(service):
    return ask(service.create_lora_training_client, base_model=MODEL, rank=8, seed=7)


def loss_of(client):
    """The loss as it stands, without a gradient."""
    return ask(client.forward, batch(), "cross_entropy").metrics["loss:sum"]


def step(client, learning_rate=3e-3):
    """One pass and one update, submitted one behind the other; the loss before the update."""
    passed = client.forward_backward(batch(), "cross_entropy")
    updated = client.optim_step(types.AdamParams(learning_rate=learning_rate))
    loss = wait("forward_backward", passed).metrics["loss:sum"]
    wait("optim_step", updated)
    return loss


def refused(call, *fields):
    """`call` fails at once, and what it says names one of `fields`."""
    try:
        within(AT_ONCE, lambda: settled(call()))
    except TimeoutError:
        raise
    except Exception as error:
        said = str(error)
        assert any(field in said for field in fields), f"the error names none of {fields}: {said}"
        return
    raise AssertionError(f"was accepted, expected an error that names one of {fields}")


# === The server and the session


def capabilities_list_the_model(rest, service):
    if hasattr(rest, "get_server_capabilities"):
        found = ask(rest.get_server_capabilities)
    else:
        found = ask(service.get_server_capabilities)
    names = [model.model_name for model in found.supported_models]
    assert MODEL in names, f"supported models are {names}"


def the_older_release_is_let_speak_json(service):
    # Releases without the switch speak protobuf always; the one with it is here for the sake of its JSON bodies.
    switch = getattr(service.holder._client_config, "proto_write_fwdbwd", False)
    assert not switch, "the server asks for protobuf, so JSON bodies go untested"


def a_wrong_key_is_refused():
    refused(lambda: new_client(tinker.ServiceClient(api_key="tml-somebody-else")), "key")


# === Training


def a_client_is_created_and_described(service):
    client = new_client(service)
    info = ask(client.get_info)
    equal(info.model_data.model_name, MODEL, "model_name")
    equal(info.lora_rank, 8, "lora_rank")
    assert info.model_id, "the model has no id"
    return client


def the_loss_falls(client):
    losses = [step(client) for _ in range(8)]
    assert all(math.isfinite(loss) for loss in losses), f"losses are {losses}"
    assert losses[-1] < 0.9 * losses[0], f"the loss does not fall: {losses}"


def every_datum_has_its_logprobs(client):
    output = ask(client.forward_backward, batch(), "cross_entropy")
    lengths = [len(one["logprobs"].data) for one in output.loss_fn_outputs]
    equal(lengths, [len(TEXT) - 1, len(OTHER) - 1], "lengths of logprobs")
    total = -sum(sum(one["logprobs"].data) for one in output.loss_fn_outputs)
    close(output.metrics["loss:sum"], total, 1e-2 * abs(total), "loss:sum against the logprobs")
    # The gradient of this pass must not reach the checks that follow.
    ask(client.optim_step, types.AdamParams(learning_rate=0.0))


def forward_changes_no_weights(client):
    first = loss_of(client)
    close(loss_of(client), first, 1e-3 * abs(first), "loss after a forward pass")


def forward_leaves_no_gradient(service):
    # A gradient of the other text would turn the first update of Adam another way.
    plain, watched = new_client(service), new_client(service)
    ask(watched.forward, [datum(OTHER)], "cross_entropy")
    for client in (plain, watched):
        ask(client.forward_backward, [datum(TEXT)], "cross_entropy")
        ask(client.optim_step, types.AdamParams(learning_rate=1e-2))
    expected = loss_of(plain)
    close(loss_of(watched), expected, 1e-3 * abs(expected), "loss with a forward pass before")


def many_data_come_back_one_each(client):
    data = [datum(TEXT[at : at + 9]) for at in range(0, 60)]
    output = ask(client.forward, data, "cross_entropy")
    equal(len(output.loss_fn_outputs), len(data), "number of outputs")


def importance_sampling_is_computed(client):
    size = len(TEXT) - 1
    tensor = lambda data, dtype: types.TensorData(data=data, dtype=dtype, shape=[size])
    one = types.Datum(
        model_input=prompt(TEXT[:-1]),
        loss_fn_inputs={
            "target_tokens": tensor(list(TEXT[1:]), "int64"),
            "logprobs": tensor([-1.0] * size, "float32"),
            "advantages": tensor([0.5] * size, "float32"),
        },
    )
    output = ask(client.forward, [one], "importance_sampling")
    logprobs = output.loss_fn_outputs[0]["logprobs"].data
    expected = -sum(0.5 * math.exp(logprob + 1.0) for logprob in logprobs)
    close(output.metrics["loss:sum"], expected, 1e-2 * abs(expected), "loss:sum")


# === Checkpoints


def a_state_is_saved(client):
    # Leaves the optimizer with a memory of another direction, which a client resumed without it lacks.
    for _ in range(3):
        ask(client.forward_backward, [datum(TEXT[::-1])], "cross_entropy")
        ask(client.optim_step, types.AdamParams(learning_rate=3e-3))
    path = ask(client.save_state, "first").path
    assert path.startswith("tinker://") and path.endswith("/weights/first"), f"path is {path}"
    return path


def weights_info_describes_the_state(rest, path):
    info = ask(rest.get_weights_info_by_tinker_path, path)
    equal(info.base_model, MODEL, "base_model")
    equal((info.is_lora, info.lora_rank), (True, 8), "(is_lora, lora_rank)")


def a_client_from_the_state_has_its_weights(service, client, path):
    made = ask(service.create_training_client_from_state, path)
    expected = loss_of(client)
    close(loss_of(made), expected, 1e-3 * abs(expected), "loss of the client from the state")


def training_resumed_with_its_optimizer_goes_on_as_before(service, client, path):
    made = ask(service.create_training_client_from_state_with_optimizer, path)
    forgetful = ask(service.create_training_client_from_state, path)
    resumed, fresh, whole = ([step(one) for _ in range(3)] + [loss_of(one)] for one in (made, forgetful, client))
    for here, there in zip(resumed, whole):
        close(here, there, 1e-4 * abs(there), f"losses {resumed} against {whole}")
    # The same check must fail for a server that forgets the optimizer, or it says nothing.
    apart = max(abs(here - there) / abs(there) for here, there in zip(fresh, whole))
    assert apart > 1e-3, f"inconclusive: a new optimizer gives {fresh}, the old one {whole}"


def a_state_is_loaded_into_a_new_client(service, path):
    # Servers may take this as the first request of a model alone, so the client is fresh.
    made = new_client(service)
    ask(made.load_state_with_optimizer, path)
    assert math.isfinite(step(made)), "no loss after loading"


# === Sampling


def weights_are_saved_for_a_sampler(client):
    path = ask(client.save_weights_for_sampler, "sampler-one").path
    assert path.startswith("tinker://") and path.endswith("/sampler-one"), f"path is {path}"
    return path


def the_named_weights_sample(service, path):
    sampler = ask(service.create_sampling_client, model_path=path)
    equal(len(draw(sampler, max_tokens=4)[0].tokens), 4, "number of tokens")


def the_base_model_samples(service):
    sampler = ask(service.create_sampling_client, base_model=MODEL)
    equal(len(draw(sampler, max_tokens=4)[0].tokens), 4, "number of tokens")


def the_current_weights_make_a_sampler(client):
    return ask(client.save_weights_and_get_sampling_client)


def draw(sampler, num_samples=1, **params):
    """Samples behind the same prompt. Without a stop of the caller's own, only the length ends one."""
    params.setdefault("stop", [])
    reply = ask(sampler.sample,
        prompt=prompt(TEXT[:20]), num_samples=num_samples, sampling_params=types.SamplingParams(**params)
    )
    return reply.sequences


def three_samples_have_logprobs(sampler):
    sequences = draw(sampler, num_samples=3, max_tokens=12, temperature=1.0)
    equal(len(sequences), 3, "number of samples")
    for sequence in sequences:
        equal(len(sequence.tokens), 12, "number of tokens")
        equal(len(sequence.logprobs), 12, "number of logprobs")
        assert all(0 <= token < 256 for token in sequence.tokens), f"tokens are {sequence.tokens}"
        assert all(logprob <= 0.0 for logprob in sequence.logprobs), f"logprobs are {sequence.logprobs}"
        equal(sequence.stop_reason, "length", "stop_reason")


def one_seed_gives_one_text(sampler):
    tokens = [draw(sampler, max_tokens=24, seed=11)[0].tokens for _ in range(2)]
    equal(tokens[0], tokens[1], "tokens of the same seed")
    others = [draw(sampler, max_tokens=24, seed=seed)[0].tokens for seed in (12, 13, 14)]
    assert any(other != tokens[0] for other in others), "four seeds gave one text"


def stopped(sampler, stop_of):
    """Draws freely, then again with the same seed and a stop out of the middle of the first draw."""
    free = draw(sampler, max_tokens=64, seed=1)[0].tokens
    middle = next((token for token in free[8:] if 32 <= token < 127), None)
    assert middle is not None, f"nothing printable among {free}"
    first = free.index(middle)
    sequence = draw(sampler, max_tokens=64, seed=1, stop=[stop_of(middle)])[0]
    equal(sequence.stop_reason, "stop", "stop_reason")
    # Servers differ in whether the stop itself is among the tokens.
    assert sequence.tokens in (free[:first], free[: first + 1]), f"{sequence.tokens} of {free}, stop {middle}"
    equal(len(sequence.logprobs), len(sequence.tokens), "number of logprobs")


def a_stop_string_ends_a_sample(sampler):
    stopped(sampler, chr)


def a_stop_token_ends_a_sample(sampler):
    stopped(sampler, int)


def prompt_logprobs_are_computed(sampler):
    found = ask(sampler.compute_logprobs, prompt(TEXT))
    equal(len(found), len(TEXT), "number of logprobs")
    assert found[0] is None, f"the first is {found[0]}"
    assert all(logprob is not None and logprob <= 0.0 for logprob in found[1:]), f"found {found}"
    return found


def top_prompt_logprobs_agree(sampler):
    reply = ask(sampler.sample,
        prompt=prompt(TEXT),
        num_samples=1,
        sampling_params=types.SamplingParams(max_tokens=1),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=3,
    )
    equal(len(reply.topk_prompt_logprobs), len(TEXT), "number of positions")
    for at, top in list(enumerate(reply.topk_prompt_logprobs))[1:]:
        equal(len(top), 3, f"number of tokens at {at}")
        best = max(logprob for _, logprob in top)
        assert best >= reply.prompt_logprobs[at] - 1e-3, f"the best at {at} is worse than the prompt's own"


def the_sampler_knows_what_the_training_learned(client, sampler):
    trained = ask(client.forward, [datum(TEXT)], "cross_entropy").loss_fn_outputs[0]["logprobs"].data
    sampled = ask(sampler.compute_logprobs, prompt(TEXT))[1:]
    for at, (here, there) in enumerate(zip(sampled, trained)):
        close(here, there, 2e-3, f"logprob {at}")


# === Listings


def runs_are_listed(rest, client):
    run = ask(client.get_info).model_id
    listed = ask(rest.list_training_runs, limit=100).training_runs
    assert run in [one.training_run_id for one in listed], f"{run} is not listed"
    one = ask(rest.get_training_run, run)
    equal((one.base_model, one.is_lora, one.lora_rank), (MODEL, True, 8), "the run")


def checkpoints_are_listed(rest, client, path):
    run = ask(client.get_info).model_id
    listed = ask(rest.list_checkpoints, run).checkpoints
    kinds = {one.tinker_path: one.checkpoint_type for one in listed}
    equal(kinds.get(path), "training", f"type of {path} among {sorted(kinds)}")
    assert "sampler" in kinds.values(), f"no sampler weights among {kinds}"
    everywhere = ask(rest.list_user_checkpoints, limit=100).checkpoints
    assert path in [one.tinker_path for one in everywhere], f"{path} is not listed for its user"


def sessions_are_listed(rest, service, client):
    session = service.holder._session_id
    assert session in ask(rest.list_sessions, limit=100).sessions, f"{session} is not listed"
    found = ask(rest.get_session, session)
    assert ask(client.get_info).model_id in found.training_run_ids, f"the session has {found.training_run_ids}"
    assert found.sampler_ids, "the session has no samplers"
    sampler = ask(rest.get_sampler, found.sampler_ids[0])
    equal(sampler.base_model, MODEL, "base_model of the sampler")


def a_deleted_checkpoint_is_gone(rest, service, client):
    path = ask(client.save_state, "short-lived").path
    ask(rest.delete_checkpoint_from_tinker_path, path)
    listed = ask(rest.list_checkpoints, ask(client.get_info).model_id).checkpoints
    assert path not in [one.tinker_path for one in listed], f"{path} is still listed"
    refused(lambda: service.create_training_client_from_state(path), "path")


# === Bad input


def an_unknown_base_model_is_refused(service):
    refused(lambda: service.create_lora_training_client(base_model="nobody/nothing"), "base_model")


def an_unknown_base_model_is_refused_for_sampling(service):
    refused(lambda: service.create_sampling_client(base_model="nobody/nothing"), "base_model")


def targets_of_another_length_are_refused(service):
    client = new_client(service)
    bad = datum(TEXT, targets=list(TEXT[1:-3]))
    refused(lambda: client.forward_backward([bad], "cross_entropy"), "target_tokens")


def a_token_outside_the_vocabulary_is_refused(service):
    client = new_client(service)
    bad = types.Datum(model_input=types.ModelInput.from_ints([70000] * 4), loss_fn_inputs=datum(TEXT[:5]).loss_fn_inputs)
    refused(lambda: client.forward_backward([bad], "cross_entropy"), "token")


def an_unknown_loss_is_refused(service):
    client = new_client(service)
    refused(lambda: client.forward_backward(batch(), "no_such_loss"), "loss_fn")


def an_unknown_checkpoint_is_refused(service):
    missing = "tinker://no-such-run/weights/nothing"
    refused(lambda: service.create_training_client_from_state(missing), "path")


def an_unknown_sampler_checkpoint_is_refused(service):
    missing = "tinker://no-such-run/sampler_weights/nothing"
    # A server may notice when the sampler is made or when it first samples.
    refused(lambda: draw(ask(service.create_sampling_client, model_path=missing), max_tokens=4), "path")


# === After a refusal. The SDK uses each number once, so the next request comes under the next one.


def goes_on_after(client, call, *fields):
    """`call` is refused at once, and the next request of the same client has its result at once."""
    refused(call, *fields)
    try:
        wait("optim_step after the refusal", client.optim_step(types.AdamParams(learning_rate=1e-4)), AT_ONCE)
    except TimeoutError:
        raise
    except Exception as error:
        raise AssertionError(f"the step after the refusal failed: {error}") from error


def changed(**inputs):
    """An example with other loss inputs; None takes one out."""
    one = datum(TEXT)
    tensors = {**one.loss_fn_inputs, **inputs}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return types.Datum(model_input=one.model_input, loss_fn_inputs=kept)


def floats(value, size=len(TEXT) - 1):
    return types.TensorData(data=[value] * size, dtype="float32", shape=[size])


def passes_go_on_after_a_refusal(service):
    client = new_client(service)
    outside = types.Datum(model_input=types.ModelInput.from_ints([70000] * 4), loss_fn_inputs=datum(TEXT[:5]).loss_fn_inputs)
    for loss, data, options, fields in (
        ("no_such_loss", batch(), None, ["loss_fn"]),
        ("cross_entropy", [outside], None, ["tokens"]),
        ("cross_entropy", [datum(TEXT, targets=list(TEXT[1:-3]))], None, ["target_tokens"]),
        ("cross_entropy", [changed(weights=floats(1.0, 3))], None, ["weights"]),
        ("cross_entropy", [changed(mask=floats(0.0))], None, ["mask"]),
        ("cross_entropy", [changed(target_tokens=None)], None, ["target_tokens"]),
        ("importance_sampling", [changed(logprobs=floats(-1.0), advantages=floats(1.0))], None, ["weights"]),
        ("cross_entropy", batch(), {"beta": 1.0}, ["beta"]),
    ):
        for run in (client.forward_backward, client.forward):
            goes_on_after(client, lambda: run(data, loss, options), *fields)


def steps_go_on_after_a_refusal(service):
    client = new_client(service)
    for rate, field in ((-1.0, "learning_rate"), (1e300, "learning_rate")):
        goes_on_after(client, lambda: client.optim_step(types.AdamParams(learning_rate=rate)), field)
    goes_on_after(client, lambda: client.optim_step(types.AdamParams(beta1=2.0)), "beta1")


def saves_go_on_after_a_refusal(service):
    client = new_client(service)
    ask(client.save_state, "taken")
    ask(client.save_weights_for_sampler, "taken")
    for save in (client.save_state, client.save_weights_for_sampler):
        for name, field in (("a/b", "path"), ("..", "path"), ("x" * 256, "path"), ("taken", "exists")):
            goes_on_after(client, lambda: save(name), field)
    if hasattr(types, "SamplingClientKind"):
        goes_on_after(client, lambda: client.save_weights_and_get_sampling_client(kind="inflight"), "kind")


def loads_go_on_after_a_refusal(service):
    client = new_client(service)
    for path in ("tinker://no-such-run/weights/nothing", "tinker://no-such-run/sampler_weights/nothing", "nowhere"):
        for load in (client.load_state, client.load_state_with_optimizer):
            goes_on_after(client, lambda: load(path), "path", "checkpoint")


def a_cancelled_sample_makes_room(sampler):
    # Releases before this field tell the server nothing.
    if not hasattr(sampler.holder, "enqueue_cancel"):
        return
    long = types.SamplingParams(max_tokens=900, stop=[])
    futures = [sampler.sample(prompt=prompt(TEXT[:20]), num_samples=16, sampling_params=long) for _ in range(6)]
    # The server knows them all once a later one has its result; without room it would not come for a minute.
    for future in futures:
        future.future().cancel() if hasattr(future, "future") else future.cancel()
    short = types.SamplingParams(max_tokens=1)
    reply = sampler.sample(prompt=prompt(TEXT[:20]), num_samples=1, sampling_params=short)
    equal(len(wait("a short sample behind cancelled ones", reply, AT_ONCE).sequences), 1, "number of samples")


def a_prompt_may_fill_the_context(rest, service, sampler):
    if hasattr(rest, "get_server_capabilities"):
        found = ask(rest.get_server_capabilities)
    else:
        found = ask(service.get_server_capabilities)
    longest = next(model.max_context_length for model in found.supported_models if model.model_name == MODEL)
    logprobs = ask(sampler.compute_logprobs, prompt((TEXT * 200)[:longest]))
    equal(len(logprobs), longest, "number of logprobs")


def a_project_that_is_unknown_has_no_runs(rest):
    equal(ask(rest.list_training_runs, project_id="no-such-project").training_runs, [], "runs")


def zero_tokens_are_refused(sampler):
    refused(lambda: draw(sampler, max_tokens=0), "max_tokens")


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    # Should anything hang past every timeout, say where and end.
    faulthandler.dump_traceback_later(15 * 60, exit=True)
    print(f"tinker {tinker.__version__}, python {sys.version.split()[0]}, {os.environ['TINKER_BASE_URL']}")
    checks = Checks()
    service = within(PATIENCE, tinker.ServiceClient)
    rest = within(PATIENCE, service.create_rest_client)
    checks.run(capabilities_list_the_model, rest, service)
    checks.run(the_older_release_is_let_speak_json, service)
    checks.run(a_wrong_key_is_refused)
    client = checks.run(a_client_is_created_and_described, service)
    if client is not None:
        drive_training(checks, service, client)
        drive_checkpoints(checks, service, rest, client)
        drive_sampling(checks, service, rest, client)
        drive_listings(checks, service, rest, client)
    drive_bad_input(checks, service)
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.stdout.flush()
    # The SDK leaves threads and pools behind that need not be waited for.
    os._exit(0 if checks.failed == 0 and checks.passed > 0 else 1)


def drive_training(checks, service, client):
    checks.run(the_loss_falls, client)
    checks.run(every_datum_has_its_logprobs, client)
    checks.run(forward_changes_no_weights, client)
    checks.run(forward_leaves_no_gradient, service)
    checks.run(many_data_come_back_one_each, client)
    checks.run(importance_sampling_is_computed, client)


def drive_checkpoints(checks, service, rest, client):
    path = checks.run(a_state_is_saved, client)
    checks.run(weights_info_describes_the_state, rest, path)
    checks.run(a_client_from_the_state_has_its_weights, service, client, path)
    checks.run(training_resumed_with_its_optimizer_goes_on_as_before, service, client, path)
    checks.run(a_state_is_loaded_into_a_new_client, service, path)


def drive_sampling(checks, service, rest, client):
    path = checks.run(weights_are_saved_for_a_sampler, client)
    checks.run(the_named_weights_sample, service, path)
    checks.run(the_base_model_samples, service)
    sampler = checks.run(the_current_weights_make_a_sampler, client)
    for check in (
        three_samples_have_logprobs,
        one_seed_gives_one_text,
        a_stop_string_ends_a_sample,
        a_stop_token_ends_a_sample,
        prompt_logprobs_are_computed,
        top_prompt_logprobs_agree,
        zero_tokens_are_refused,
        a_cancelled_sample_makes_room,
    ):
        checks.run(check, sampler)
    checks.run(a_prompt_may_fill_the_context, rest, service, sampler)
    checks.run(the_sampler_knows_what_the_training_learned, client, sampler)


def drive_listings(checks, service, rest, client):
    path = checks.run(a_second_state_is_saved, client)
    checks.run(runs_are_listed, rest, client)
    checks.run(checkpoints_are_listed, rest, client, path)
    checks.run(sessions_are_listed, rest, service, client)
    checks.run(a_project_that_is_unknown_has_no_runs, rest)
    checks.run(a_deleted_checkpoint_is_gone, rest, service, client)


def a_second_state_is_saved(client):
    return ask(client.save_state, "second").path


def drive_bad_input(checks, service):
    for check in (
        an_unknown_base_model_is_refused,
        an_unknown_base_model_is_refused_for_sampling,
        targets_of_another_length_are_refused,
        a_token_outside_the_vocabulary_is_refused,
        an_unknown_loss_is_refused,
        an_unknown_checkpoint_is_refused,
        an_unknown_sampler_checkpoint_is_refused,
        passes_go_on_after_a_refusal,
        steps_go_on_after_a_refusal,
        saves_go_on_after_a_refusal,
        loads_go_on_after_a_refusal,
    ):
        checks.run(check, service)


if __name__ == "__main__":
    main()
