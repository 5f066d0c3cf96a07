"""Calls every public method of the clients of the official Python SDK, and every command of its program `tinker`.

`cargo xtask interop` runs this after drive.py, on a new server that exchanges API keys for tokens, because the SDK
reads from the token whose key it is.
"""

import faulthandler
import logging
import os
import sys
import warnings

# Tokenizers are not fetched from the hub, whose answers these checks must not depend on.
os.environ["HF_HUB_OFFLINE"] = "1"

from drive import Checks, PATIENCE, within
from methods import run_tables

import commands
import rest_methods
import training_methods
import tinker


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    # Should anything hang past every timeout, say where and end.
    faulthandler.dump_traceback_later(10 * 60, exit=True)
    print(f"methods and commands of tinker {tinker.__version__}, {os.environ['TINKER_BASE_URL']}")
    checks = Checks()
    world = within(PATIENCE, rest_methods.World)
    run_tables(checks, [(rest_methods.TABLE, world), (training_methods.TABLE, within(PATIENCE, rest_methods.World))])
    commands.run(checks, within(PATIENCE, rest_methods.World))
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.stdout.flush()
    # The SDK leaves threads and pools behind that need not be waited for.
    os._exit(0 if checks.failed == 0 and checks.passed > 0 else 1)


if __name__ == "__main__":
    main()
