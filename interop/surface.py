"""Prints what the installed official Python SDK offers to programs: its clients with their methods,
types, exceptions, commands and options of the program `tinker`, environment variables, and flags
of the server's configuration. One name per line, sorted.

A method `x_async` is left out if there is a method `x`. The output is committed as surface.txt, and
docs/parity.md has a row for each line of it.
"""

import enum
import inspect
import pathlib
import re

import click
import tinker
from tinker.cli.__main__ import main_cli

# The methods of these classes are not listed: the first are raw HTTP responses and a class of the
# HTTP library, the last have the methods of the clients that they wrap.
WHOLE = {"APIResponse", "AsyncAPIResponse", "Timeout"}
WHOLE |= {"BackcompatSamplingClientFuture", "BackcompatTrainingClientFuture"}

# Methods of these prefixes are hooks of pydantic.
HIDDEN = ("_", "serialize_", "validate_")

ENVIRONMENT = re.compile(r"""(?:environ\.get\(|environ\[|getenv\()\s*["']([A-Z0-9_]+)["']""")


def methods(name, cls):
    """Yields the public methods and properties of a class, including those that it inherits from
    other classes of the SDK."""
    found = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("tinker") or base.__module__ == "tinker._models":
            continue
        for member, value in vars(base).items():
            is_method = callable(value) or isinstance(value, (classmethod, staticmethod, property))
            if is_method and not inspect.isclass(value) and not member.startswith(HIDDEN):
                found.add(member)
    for member in found:
        if not (member.endswith("_async") and member.removesuffix("_async") in found):
            yield f"{name}.{member}"


def public(module):
    """Yields the public names of a module, with the methods of its classes."""
    # The copy is needed because the modules load some members on first use.
    for name, value in list(vars(module).items()):
        if name.startswith("_") or inspect.ismodule(value) or name in ("annotations", "resources"):
            continue
        yield name
        is_class = inspect.isclass(value) and not issubclass(value, (enum.Enum, BaseException))
        if is_class and name not in WHOLE:
            yield from methods(name, value)


def commands(command, path):
    """Yields the commands of the program with their options, each by its first long form."""
    yield path
    for option in command.params:
        if isinstance(option, click.Option):
            yield f"{path} {next(form for form in option.opts if form.startswith('--'))}"
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), f"{path} {name}")


def variables():
    """Yields the environment variables that the sources of the SDK read."""
    for source in pathlib.Path(tinker.__file__).parent.rglob("*.py"):
        if not source.name.endswith("_test.py"):
            yield from ENVIRONMENT.findall(source.read_text(encoding="utf-8"))


def flags():
    """Yields the flags that the server sends when a session is opened, and at intervals."""
    for response in (tinker.types.ClientConfigResponse, tinker.types.ClientDynamicConfigResponse):
        yield from response.model_fields


names = {name for module in (tinker, tinker.types) for name in public(module)}
names.update(f"auth.{name}" for name in tinker.auth.__all__)
names.update(commands(main_cli, "tinker"), variables(), flags())
print("\n".join(sorted(names)))
