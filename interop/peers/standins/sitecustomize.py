"""Stands in, inside a peer's environment, for packages that it imports and, on a CPU, never uses.

Python imports this before anything else where the directory is on PYTHONPATH. The packages are torch and what is built
on it. Any name can be imported from a stand-in; using one is an error that names it, but for the few that are used on a CPU.
"""

import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import types
import typing
from pathlib import Path

ABSENT = ("torch", "peft", "ray", "accelerate", "vllm", "datasets")


class Named(type):
    """The type of every name in a stand-in: a class, so that it can stand in annotations and before `isinstance`."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(f"{cls.__name__}.{name}")

    def __or__(cls, other):
        return typing.Union[cls, other]

    def __ror__(cls, other):
        return typing.Union[other, cls]

    def __getitem__(cls, item):
        return cls


def stand_in(name):
    return Named(name, (), {"__init__": used, "__call__": used})


def used(self, *arguments, **named):
    # A decorator on a class or function that is only defined may pass.
    if len(arguments) == 1 and not named and callable(arguments[0]):
        return
    raise RuntimeError(f"{type(self).__name__} is used, and its package is not installed here")


class Module(types.ModuleType):
    __path__ = []
    # Above every least version that is asked for.
    __version__ = "99.0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = stand_in(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value

    def __reduce__(self):
        # Ray sends functions between processes with the modules that they use.
        return importlib.import_module, (self.__name__,)


class LoraConfig:
    """The one thing of peft that is used on a CPU: the description beside saved adapter weights."""

    def __init__(self, **fields):
        self.fields = fields

    def save_pretrained(self, directory):
        (Path(directory) / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **self.fields}))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what no other finder did; it stands last."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT and not asked_by_transformers():
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module):
        if module.__name__ == "peft":
            module.LoraConfig = LoraConfig
        elif module.__name__ == "torch":
            # Twinkle seeds torch and looks for a GPU, whatever its model is.
            module.manual_seed = lambda seed: None
            module.cuda = Module("torch.cuda")
            module.cuda.is_available = lambda: False


def asked_by_transformers():
    """Whether transformers asks if a package is installed. It must see that torch is absent, but may import a stand-in."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib.util" and frame.f_back is not None:
            return frame.f_back.f_globals.get("__name__", "").startswith("transformers.")
        frame = frame.f_back
    return False


if sys.version_info < (3, 12):
    # SkyRL declares Python 3.11, and pydantic takes a TypedDict of typing only from 3.12 on.
    try:
        import typing_extensions

        typing.TypedDict = typing_extensions.TypedDict
    except ImportError:
        pass

sys.meta_path.append(Finder())
