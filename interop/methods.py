"""Tables of what the official Python SDK offers, compared with what the checks of this directory call.

Each public method of the clients has a row: the check that calls it, or the reason why no check can. Calls are
recorded, so a check cannot claim a method that it does not call. A method that a release lacks needs no row.
"""

import asyncio
import functools
import inspect
import pathlib
import sys

from drive import CALL, ask, equal, named

from tinker.lib.public_interfaces.api_future import APIFuture
from tinker.lib.public_interfaces.rest_client import RestClient
from tinker.lib.public_interfaces.sampling_client import SamplingClient
from tinker.lib.public_interfaces.service_client import ServiceClient
from tinker.lib.public_interfaces.training_client import TrainingClient

try:
    from tinker.lib.public_interfaces.admin_client import AdminClient
except ImportError:
    # Releases up to 0.24 have no such client.
    AdminClient = None

# 112 public methods in release 0.38.0: 4, 7, 45, 12, 17 and 27.
CLASSES = [one for one in (APIFuture, AdminClient, RestClient, SamplingClient, ServiceClient, TrainingClient) if one]

# The most methods of a release that may have a reason instead of a check.
MOST_REASONS = 10

HERE = str(pathlib.Path(__file__).parent)


def public_methods():
    """The names of all public methods and properties of the clients, as `Class.method`."""
    found = set()
    for cls in CLASSES:
        for base in cls.__mro__:
            if base.__module__.startswith("tinker"):
                for name, value in vars(base).items():
                    is_method = callable(value) or isinstance(value, (property, staticmethod, classmethod))
                    if is_method and not name.startswith("_"):
                        found.add(f"{cls.__name__}.{name}")
    return found


def descendants(cls):
    """A class and all classes that inherit from it."""
    return [cls] + [below for child in cls.__subclasses__() for below in descendants(child)]


class Recorder:
    """Records which public methods are called from the scripts of this directory, not from inside the SDK."""

    def __init__(self):
        self.called = set()
        for cls in CLASSES:
            for holder in descendants(cls):
                for name, value in list(vars(holder).items()):
                    if not name.startswith("_"):
                        self.wrap(holder, name, f"{cls.__name__}.{name}", value)

    def wrap(self, holder, name, key, value):
        if isinstance(value, property):
            setattr(holder, name, property(self.recorded(key, value.fget)))
        elif isinstance(value, (staticmethod, classmethod)):
            setattr(holder, name, type(value)(self.recorded(key, value.__func__)))
        elif inspect.isfunction(value):
            setattr(holder, name, self.recorded(key, value))

    def recorded(self, key, function):
        @functools.wraps(function)
        def call(*arguments, **options):
            if sys._getframe(1).f_code.co_filename.startswith(HERE):
                self.called.add(key)
            return function(*arguments, **options)

        return call


class Table:
    """The rows: methods with their checks, and methods with a reason and a call that cannot succeed."""

    def __init__(self):
        self.checks = []
        self.reasons = {}

    def proves(self, *methods):
        """Declares that a check calls these methods and verifies what they return."""

        def declare(check):
            self.checks.append((check, methods))
            return check

        return declare

    def leaves_out(self, reason, error, *methods):
        """Declares why these methods have no check, with a call that must fail with this error."""

        def declare(attempt):
            self.reasons.update({method: (reason, error, attempt) for method in methods})
            return attempt

        return declare


def run_tables(checks, tables):
    """Runs the rows of the tables, each with its world, and compares them with the methods of the release."""
    found, recorder = public_methods(), Recorder()
    rows, reasons = set(), {}
    for table, world in tables:
        for check, methods in table.checks:
            rows.update(methods)
            offered = found.intersection(methods)
            if offered:
                checks.run(calling(check, recorder, offered), world)
        for method in sorted(found.intersection(table.reasons)):
            checks.run(still_failing(method, *table.reasons[method]), world)
        reasons.update(table.reasons)
    checks.run(every_method_has_one_row, found, rows, set(reasons))
    left = found.intersection(reasons)
    print(f"       {len(found)} methods: {len(found - left)} are checked, {len(left)} have a reason")


def calling(check, recorder, offered):
    """The check, followed by a look at whether it called what it claims to."""

    @functools.wraps(check)
    def run(world):
        recorder.called.clear()
        check(world)
        equal(sorted(offered - recorder.called), [], "methods of the row that were not called")

    return run


def still_failing(method, reason, expected, attempt):
    """A check that passes while a method fails as expected, so that the reason goes when the method works."""

    def check(world):
        client, _, name = method.partition(".")
        try:
            finished(attempt(world, client, name))
        except expected:
            print(f"       {method}: {reason}")
            return
        raise AssertionError(f"{method} works, so it needs a check in place of the reason: {reason}")

    check.__name__ = f"{method.replace('.', ' ')} has a reason"
    return check


def every_method_has_one_row(found, rows, reasons):
    equal(sorted(found - rows - reasons), [], "methods without a row")
    equal(sorted(rows & reasons), [], "methods with a check and a reason")
    assert len(found & reasons) <= MOST_REASONS, f"too many methods have a reason: {sorted(found & reasons)}"


async def awaited(made):
    """The result of a coroutine; that of a submitting method is another future."""
    found = await made
    return await found.result_async() if isinstance(found, APIFuture) else found


def finished(made):
    """The result of what a method returned, whether it comes at once, in a future or from a coroutine."""
    if inspect.iscoroutine(made):
        return named("a coroutine", CALL, lambda: asyncio.run(awaited(made)))
    return ask(lambda: made)


def later(call, *arguments, **options):
    """The result of an async method."""
    return finished(call(*arguments, **options))


def both(client, name, *arguments, **options):
    """The result of a method, after a comparison with that of its async form if the release has one."""
    direct = ask(getattr(client, name), *arguments, **options)
    other = getattr(client, f"{name}_async", None)
    if other is not None:
        equal(later(other, *arguments, **options), direct, f"{name}_async")
    return direct
