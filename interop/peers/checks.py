"""Measures how far one release of the official Python SDK comes with a Tinker server.

`cargo xtask peers SERVER --sdk RELEASE` runs this, with TINKER_BASE_URL, TINKER_API_KEY and PEER_MODEL set. The names of
the checks are those of the conformance suite, as far as the SDK can express them. Each check has a client of its own
and a bound, since the SDK retries some faults for minutes; prints one line per check: passed, failed and why, or hangs.
The exit code is 0 only if all passed.
"""

import logging
import math
import os
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tinker  # noqa: E402
from drive import OTHER, TEXT, close, datum, equal, prompt, settled, within  # noqa: E402
from tinker import types  # noqa: E402

MODEL = os.environ["PEER_MODEL"]
# A first use of a shape may be compiled; no check should take longer than this on a small model.
PATIENCE = 60
# A mistake of the caller's is known at once.
AT_ONCE = 20


def new_client(service, rank=8):
    return settled(service.create_lora_training_client(base_model=MODEL, rank=rank, seed=7))


def losses(output, data):
    """The loss of each datum. Servers differ in what their metrics hold, not in the logprobs."""
    found = []
    for one, outputs in zip(data, output.loss_fn_outputs, strict=True):
        logprobs, weights = outputs["logprobs"].data, one.loss_fn_inputs["weights"].data
        found.append(-sum(logprob * weight for logprob, weight in zip(logprobs, weights)))
    return found


def batch():
    return [datum(TEXT), datum(OTHER)]


def loss_of(client):
    return sum(losses(client.forward(batch(), "cross_entropy").result(), batch()))


def submit_step(client, learning_rate=1e-2):
    passed = client.forward_backward(batch(), "cross_entropy")
    return passed, client.optim_step(types.AdamParams(learning_rate=learning_rate))


def step(client):
    passed, updated = submit_step(client)
    loss = sum(losses(passed.result(), batch()))
    updated.result()
    return loss


def draw(sampler, num_samples=1, **params):
    return sampler.sample(
        prompt=prompt(TEXT[:20]), num_samples=num_samples, sampling_params=types.SamplingParams(**params)
    ).result().sequences


def sampler_of(client):
    return settled(client.save_weights_and_get_sampling_client())


# === The checks, in their order


def config(service):
    if hasattr(service, "get_server_capabilities"):
        found = service.get_server_capabilities()
    else:
        found = service.create_rest_client().get_server_capabilities().result()
    names = [model.model_name for model in found.supported_models]
    assert MODEL in names, f"supported models are {names}"


def create_model(service):
    info = new_client(service).get_info()
    equal(info.model_data.model_name, MODEL, "model_name")


def train_loss_falls(service):
    client = new_client(service)
    found = [step(client) for _ in range(10)]
    assert all(map(math.isfinite, found)), f"losses are {found}"
    assert found[-1] < 0.9 * found[0], f"the loss went from {found[0]} to {found[-1]}"


def order(service):
    """Steps submitted one behind the other do what steps awaited one by one do."""
    ahead, one_by_one = new_client(service), new_client(service)
    submitted = [submit_step(ahead) for _ in range(4)]
    found = []
    for passed, updated in submitted:
        found.append(sum(losses(passed.result(), batch())))
        updated.result()
    for here, there in zip(found, [step(one_by_one) for _ in range(4)], strict=True):
        close(here, there, 1e-3 * abs(there), "loss of a step submitted ahead")


def save_load(service):
    client = new_client(service)
    step(client)
    path = client.save_state(f"kept-{os.getpid()}").result().path
    expected = loss_of(client)
    for _ in range(3):
        step(client)
    assert abs(loss_of(client) - expected) > 1e-3 * expected, "training changed nothing"
    client.load_state(path).result()
    close(loss_of(client), expected, 1e-3 * expected, "loss after loading")


def resume(service):
    client = new_client(service)
    for _ in range(3):
        step(client)
    path = client.save_state(f"resumed-{os.getpid()}").result().path
    made = settled(service.create_training_client_from_state(path))
    expected = loss_of(client)
    close(loss_of(made), expected, 1e-3 * expected, "loss of the client from the state")
    step(made)


def sample(service):
    sampler = sampler_of(new_client(service))
    sequences = draw(sampler, num_samples=2, max_tokens=8, stop=[])
    equal(len(sequences), 2, "number of samples")
    for sequence in sequences:
        equal(len(sequence.tokens), 8, "number of tokens")
        equal(len(sequence.logprobs), 8, "number of logprobs")
        equal(sequence.stop_reason, "length", "stop_reason")


def sample_seed(service):
    sampler = sampler_of(new_client(service))
    one, again = (draw(sampler, max_tokens=16, seed=11, stop=[])[0].tokens for _ in range(2))
    equal(again, one, "tokens of the same seed")
    others = [draw(sampler, max_tokens=16, seed=seed, stop=[])[0].tokens for seed in (101, 102, 103)]
    assert any(other != one for other in others), "four seeds gave one text"


def logprobs_agree(service):
    client = new_client(service)
    step(client)
    drawn = draw(sampler_of(client), max_tokens=8, seed=3, temperature=1.0, stop=[])[0]
    whole = list(TEXT[:20]) + list(drawn.tokens)
    trained = client.forward([datum(whole)], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].data
    for here, there in zip(drawn.logprobs, trained[-8:], strict=True):
        close(here, there, 2e-2, "logprob of a sampled token")


def large_batch(service):
    """One output each, in order: the lengths tell the data apart."""
    data = [datum(TEXT[: 3 + at % 8]) for at in range(200)]
    output = new_client(service).forward(data, "cross_entropy").result()
    equal(len(output.loss_fn_outputs), len(data), "number of outputs")
    for at, (one, outputs) in enumerate(zip(data, output.loss_fn_outputs, strict=True)):
        length = len(one.loss_fn_inputs["target_tokens"].data)
        equal(len(outputs["logprobs"].data), length, f"number of logprobs of datum {at}")


def errors(service):
    client = new_client(service)
    refused("no_such_loss", lambda: client.forward_backward(batch(), "no_such_loss").result(), "loss")
    refused("no-such-run", lambda: sampled(service, model_path="tinker://no-such-run/sampler_weights/nothing"), "nothing")
    refused("nobody/nothing", lambda: sampled(service, base_model="nobody/nothing"), "nobody/nothing", "base_model")


def sampled(service, **chosen):
    return draw(settled(service.create_sampling_client(**chosen)), max_tokens=4)


def refused(what, call, *named):
    """`call` fails at once, and what it says has one of `named` in it, or `what` was wrong is not known."""
    try:
        within(AT_ONCE, call)
    except TimeoutError:
        raise AssertionError(f"{what} is not refused within {AT_ONCE} s") from None
    except (tinker.TinkerError, ValueError) as error:
        # The SDK's own, or its check of the arguments.
        said = str(error)
        assert any(name in said for name in (what, *named)), f"{what} is refused for another reason: {said}"
        return
    raise AssertionError(f"{what} was accepted")


CHECKS = (
    config,
    create_model,
    train_loss_falls,
    order,
    save_load,
    resume,
    sample,
    sample_seed,
    logprobs_agree,
    large_batch,
    errors,
)


def run(name, check, *arguments):
    """Prints what came of a check; its result, where it passed, in a list of one."""
    start = time.monotonic()
    try:
        result = [within(PATIENCE, check, *arguments)]
        said = "passed"
    except TimeoutError:
        result, said = [], f"hangs: no answer in {PATIENCE} s"
    except BaseException as error:
        # What servers say of a refused body repeats the body.
        why = " ".join(str(error).split())[:300]
        result, said = [], f"failed: {type(error).__name__}: {why}"
    print(f"{name:<18} {said} ({time.monotonic() - start:.1f} s)", flush=True)
    return result


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print(f"tinker {tinker.__version__}, python {sys.version.split()[0]}, {MODEL} at {os.environ['TINKER_BASE_URL']}")
    passed = 0
    service = run("session", tinker.ServiceClient)
    if service:
        passed = 1 + sum(len(run(check.__name__, check, service[0])) for check in CHECKS)
    print(f"{passed} of {1 + len(CHECKS)} passed", flush=True)
    # What hangs has threads that need not be waited for.
    os._exit(0 if passed == 1 + len(CHECKS) else 1)


if __name__ == "__main__":
    main()
