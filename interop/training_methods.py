"""Checks of the clients for training and sampling, in the forms that drive.py does not use: async methods, handles,
futures, and the ends of sessions.
"""

import math

from drive import CALL, MODEL, OTHER, TEXT, ask, batch, close, equal, loss_of, named, prompt, wait
from methods import Table, both, later

import tinker
from tinker import types

TABLE = Table()


def alike(client, other):
    """Two training clients have the same weights."""
    expected = loss_of(client)
    close(loss_of(other), expected, 1e-3 * abs(expected), "loss")


def made_both_ways(service, name, *arguments, **options):
    """A client made by a method and one made by its async form."""
    made = ask(getattr(service, name), *arguments, **options)
    return made, later(getattr(service, f"{name}_async"), *arguments, **options)


def fresh(world, seed=11):
    return ask(world.service.create_lora_training_client, base_model=MODEL, rank=8, seed=seed)


# === The service


@TABLE.proves("ServiceClient.get_server_capabilities", "ServiceClient.get_server_capabilities_async")
def the_service_tells_the_capabilities(world):
    found = both(world.service, "get_server_capabilities")
    assert MODEL in [model.model_name for model in found.supported_models], f"found {found}"


@TABLE.proves("ServiceClient.create_lora_training_client", "ServiceClient.create_lora_training_client_async")
def new_clients_of_a_seed_are_alike(world):
    one, two = made_both_ways(world.service, "create_lora_training_client", base_model=MODEL, rank=8, seed=11)
    assert ask(one.get_info).model_id != ask(two.get_info).model_id, "both clients have one model"
    alike(one, two)


@TABLE.proves(
    "ServiceClient.create_training_client_from_state", "ServiceClient.create_training_client_from_state_async"
)
def clients_from_a_state_have_its_weights(world):
    for made in made_both_ways(world.service, "create_training_client_from_state", world.path):
        alike(world.client, made)


@TABLE.proves(
    "ServiceClient.create_training_client_from_state_with_optimizer",
    "ServiceClient.create_training_client_from_state_with_optimizer_async",
)
def clients_from_a_state_with_its_optimizer_train_alike(world):
    made = made_both_ways(world.service, "create_training_client_from_state_with_optimizer", world.path)
    for client in made:
        alike(world.client, client)
        ask(client.forward_backward, batch(), "cross_entropy")
        ask(client.optim_step, types.AdamParams(learning_rate=1e-3))
    alike(*made)


@TABLE.proves("ServiceClient.create_sampling_client", "ServiceClient.create_sampling_client_async")
def samplers_of_one_checkpoint_agree(world):
    one, two = made_both_ways(world.service, "create_sampling_client", model_path=world.weights)
    agree(one, two)


def agree(one, two):
    """Two samplers have the same weights."""
    for here, there in zip(ask(one.compute_logprobs, prompt(TEXT))[1:], ask(two.compute_logprobs, prompt(TEXT))[1:]):
        close(here, there, 1e-4, "logprob")


@TABLE.proves("ServiceClient.create_rest_client")
def the_service_makes_a_rest_client(world):
    rest = world.service.create_rest_client()
    equal(ask(rest.get_training_run, world.run).training_run_id, world.run, "training_run_id")


@TABLE.proves("ServiceClient.copy_weights")
def a_copy_may_be_trained_from(world):
    service = tinker.ServiceClient(project_id="project-of-copies")
    path = ask(service.copy_weights, world.path)
    alike(world.client, ask(world.service.create_training_client_from_state, path))


@TABLE.proves("ServiceClient.holder", "ServiceClient.get_telemetry")
def the_holder_knows_the_session(world):
    equal(world.service.holder._session_id, world.session, "session")
    equal(world.service.get_telemetry(), None, "telemetry that is off")


@TABLE.proves("ServiceClient.get_console_url", "TrainingClient.get_console_url")
def console_addresses_name_the_session_and_the_run(world):
    session, run = world.service.get_console_url(), world.client.get_console_url()
    assert world.session in session, f"{world.session} is not in {session}"
    assert world.session in run, f"{world.session} is not in {run}"


@TABLE.proves("ServiceClient.close")
def a_closed_session_is_finished(world):
    service = tinker.ServiceClient(user_metadata={"closed": world.session})
    client = ask(service.create_lora_training_client, base_model=MODEL, rank=8)
    wait("close", service.close("success", "done"))
    wanted = types.SessionSearchRequest(
        user_metadata={"closed": world.session}, statuses=[types.ClientFinishedSessionStatusQuery()]
    )
    equal(len(ask(world.rest.search_sessions, wanted).sessions), 1, "finished sessions")
    try:
        ask(client.optim_step, types.AdamParams())
    except TimeoutError:
        raise
    except Exception:
        return
    raise AssertionError("a closed session still trains")


# === Training


@TABLE.proves("TrainingClient.get_info", "TrainingClient.get_info_async")
def a_client_describes_its_model(world):
    info = both(world.client, "get_info")
    equal((info.model_id, info.model_data.model_name, info.lora_rank), (world.run, MODEL, 8), "the model")


@TABLE.proves("TrainingClient.get_telemetry", "SamplingClient.get_telemetry")
def telemetry_of_the_clients_is_off(world):
    equal((world.client.get_telemetry(), world.sampler.get_telemetry()), (None, None), "telemetry")


@TABLE.proves(
    "TrainingClient.forward",
    "TrainingClient.forward_async",
    "TrainingClient.forward_backward",
    "TrainingClient.forward_backward_async",
    "TrainingClient.optim_step",
    "TrainingClient.optim_step_async",
)
def async_steps_train_like_others(world):
    plain, other = fresh(world), fresh(world)
    before = loss_of(plain)
    expected = ask(plain.forward_backward, batch(), "cross_entropy").metrics["loss:sum"]
    found = later(other.forward_backward_async, batch(), "cross_entropy").metrics["loss:sum"]
    close(found, expected, 1e-3 * abs(expected), "loss of forward_backward_async")
    ask(plain.optim_step, types.AdamParams(learning_rate=1e-2))
    later(other.optim_step_async, types.AdamParams(learning_rate=1e-2))
    after = ask(plain.forward, batch(), "cross_entropy").metrics["loss:sum"]
    found = later(other.forward_async, batch(), "cross_entropy").metrics["loss:sum"]
    close(found, after, 1e-3 * abs(after), "loss of forward_async after the step")
    assert after < 0.99 * before, f"the loss went from {before} to {after}"


@TABLE.proves("APIFuture.result", "APIFuture.result_async", "APIFuture.future", "APIFuture.coroutine")
def all_forms_of_a_future_have_one_result(world):
    made = world.client.forward(batch(), "cross_entropy")
    expected = named("result", CALL, made.result)
    results = {"result_async": later(made.result_async)}
    # Releases up to 0.24 have no further forms.
    if hasattr(made, "coroutine"):
        results["future"] = made.future().result(CALL)
        results["coroutine"] = later(made.coroutine)
    for name, found in results.items():
        equal(found.metrics, expected.metrics, f"result of {name}")
    assert math.isfinite(expected.metrics["loss:sum"]), f"metrics are {expected.metrics}"


@TABLE.proves("TrainingClient.save_state", "TrainingClient.save_state_async")
def states_are_saved_and_listed(world):
    one = ask(world.client.save_state, "both-one").path
    two = later(world.client.save_state_async, "both-two").path
    for path in (one, two):
        equal(world.checkpoint(path).checkpoint_type, "training", f"type of {path}")


@TABLE.proves("TrainingClient.save_weights_for_sampler", "TrainingClient.save_weights_for_sampler_async")
def weights_are_saved_and_listed(world):
    one = ask(world.client.save_weights_for_sampler, "both-one").path
    two = later(world.client.save_weights_for_sampler_async, "both-two").path
    for path in (one, two):
        equal(world.checkpoint(path).checkpoint_type, "sampler", f"type of {path}")


@TABLE.proves(
    "TrainingClient.load_state",
    "TrainingClient.load_state_async",
    "TrainingClient.load_state_with_optimizer",
    "TrainingClient.load_state_with_optimizer_async",
)
def a_loaded_state_replaces_the_weights(world):
    for name in ("load_state", "load_state_with_optimizer"):
        one, two = fresh(world), fresh(world)
        ask(getattr(one, name), world.path)
        later(getattr(two, f"{name}_async"), world.path)
        alike(world.client, one)
        alike(world.client, two)


@TABLE.proves("TrainingClient.create_sampling_client", "TrainingClient.create_sampling_client_async")
def a_training_client_makes_samplers_of_a_checkpoint(world):
    one, two = made_both_ways(world.client, "create_sampling_client", world.weights)
    agree(world.sampler, one)
    agree(world.sampler, two)


@TABLE.proves(
    "TrainingClient.save_weights_and_get_sampling_client", "TrainingClient.save_weights_and_get_sampling_client_async"
)
def the_current_weights_make_samplers_both_ways(world):
    one, two = made_both_ways(world.client, "save_weights_and_get_sampling_client")
    agree(world.sampler, one)
    agree(world.sampler, two)


# === Sampling


@TABLE.proves("SamplingClient.sample", "SamplingClient.sample_async")
def one_seed_gives_one_sample_both_ways(world):
    params = types.SamplingParams(max_tokens=12, seed=5, stop=[])
    options = {"prompt": prompt(OTHER), "num_samples": 2, "sampling_params": params}
    found = both_samples(world.sampler, options)
    equal([len(tokens) for tokens in found], [12, 12], "numbers of tokens")


def both_samples(sampler, options):
    one = [sequence.tokens for sequence in ask(sampler.sample, **options).sequences]
    two = [sequence.tokens for sequence in later(sampler.sample_async, **options).sequences]
    equal(two, one, "tokens of sample_async")
    return one


@TABLE.proves("SamplingClient.compute_logprobs", "SamplingClient.compute_logprobs_async")
def logprobs_are_computed_both_ways(world):
    one = ask(world.sampler.compute_logprobs, prompt(OTHER))
    two = later(world.sampler.compute_logprobs_async, prompt(OTHER))
    equal((len(one), one[0], two[0]), (len(OTHER), None, None), "(number, first, first)")
    for here, there in zip(one[1:], two[1:]):
        close(there, here, 1e-4, "logprob")


@TABLE.proves("SamplingClient.get_base_model", "SamplingClient.get_base_model_async")
def a_sampler_tells_its_base_model(world):
    equal(both(world.sampler, "get_base_model"), MODEL, "base model")


@TABLE.proves("SamplingClient.create")
def a_sampler_is_made_of_the_holder(world):
    made = ask(tinker.SamplingClient.create, world.service.holder, model_path=world.weights)
    agree(world.sampler, made)


@TABLE.proves("SamplingClient.get_sampler_handle", "SamplingClient.from_sampler_handle")
def a_handle_leads_to_the_same_sampler(world):
    handle = world.sampler.get_sampler_handle()
    made = tinker.SamplingClient.from_sampler_handle(handle)
    equal(made._sampling_session_id, world.sampler._sampling_session_id, "sampler")
    agree(world.sampler, made)


@TABLE.proves("SamplingClient.on_queue_state_change")
def a_pause_is_noted_and_an_active_queue_is_not(world):
    from tinker.lib.api_future_impl import QueueState

    sampler = ask(world.service.create_sampling_client, base_model=MODEL)
    noted = sampler._last_queue_state_logged
    sampler.on_queue_state_change(QueueState.ACTIVE, None)
    equal(sampler._last_queue_state_logged, noted, "time of the note after an active queue")
    sampler.on_queue_state_change(QueueState.PAUSED_CAPACITY, "full")
    assert sampler._last_queue_state_logged > noted, "the pause was not noted"


# === What needs more than the SDK and the server


@TABLE.leaves_out(
    "the built-in model has no tokenizer on the hub",
    OSError,
    "TrainingClient.get_tokenizer",
    "SamplingClient.get_tokenizer",
)
def tokenizers(world, client, name):
    return getattr(world.client if client == "TrainingClient" else world.sampler, name)()


@TABLE.leaves_out(
    "needs torch, which is too large to install for each run",
    ImportError,
    "TrainingClient.forward_backward_custom",
    "TrainingClient.forward_backward_custom_async",
)
def custom_losses(world, client, name):
    return getattr(world.client, name)(batch(), lambda data, logprobs: (sum(one.sum() for one in logprobs), {}))


@TABLE.leaves_out(
    "needs torch, which is too large to install for each run", ImportError, "ServiceClient.create_custom_loss"
)
def custom_loss_graphs(world, client, name):
    return world.service.create_custom_loss(lambda logprobs: (logprobs.sum(), {}), input_ranks={"logprobs": 1})


@TABLE.leaves_out(
    "the embedded server stores no external weights",
    tinker.NotFoundError,
    "TrainingClient.save_weights_external",
    "TrainingClient.save_weights_external_async",
)
def external_weights(world, client, name):
    return getattr(fresh(world), name)("external")
