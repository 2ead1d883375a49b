"""Objectives that workers can be sent, and ways to end them; quick to import, as each worker does so."""

import os
import signal
import sys
import time
from typing import Any


def valley(parameters: dict[str, Any]) -> float:
    return (parameters["x"] - 0.3) ** 2


def dies(parameters: dict[str, Any]) -> float:
    """Kills its own process in the upper half."""
    if parameters["x"] > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
    return valley(parameters)


def leaves(parameters: dict[str, Any]) -> float:
    sys.exit(3)


def process(parameters: dict[str, Any]) -> float:
    return float(os.getpid())


def sleeps(parameters: dict[str, Any]) -> float:
    time.sleep(60)
    return 0.0


def held(parameters: dict[str, Any]) -> float:
    """Long enough for others to see that it runs."""
    time.sleep(0.2)
    return valley(parameters)


LINE = {"x": (0.0, 1.0)}
