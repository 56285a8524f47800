"""A program runs once in a process of its own before it runs in the agent's.

A task's sponsor chooses the program, and a delegate's signature says which one it is, not that it
is sound. Its form is checked (`headwater_models.inspection`), but a damaged graph that passes can
still make the runtime's native code read where it must not, and that ends the process. So a program
that this process has not run yet is tried in a child, on zeros; what kills the child is refused
with a reason, and the device goes on with the next round.

For a moment that takes half as much memory again as training. A program that came with this
installation is no stranger and goes without; `doctor` tries one, which shows a runtime that was
built for another processor.
"""

import resource
import sys
from typing import Final

import numpy as np

from headwater_agent.errors import UnsoundProgram

TRIAL_TIMEOUT_S: Final = 120.0
"""A Pi Zero takes 20 s to load the runtime and run one step."""
TRIAL_EXAMPLES: Final = 2
MAX_STDERR_CHARACTERS: Final = 200
REFUSED: Final = 1
"""Exit code of a trial whose program was refused without harm."""


def try_program(data: bytes, *, timeout_s: float = TRIAL_TIMEOUT_S) -> None:
    """Train one step with the program in a child process.

    Raises:
        UnsoundProgram: If the child died, took too long, or refused it.
    """
    # Most devices run programs of their installation alone, and never need it.
    import subprocess  # noqa: PLC0415

    command = [sys.executable, "-m", "headwater_agent.trial"]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnsoundProgram(f"one step of the program takes more than {timeout_s} s") from None
    if done.returncode == 0:
        return
    if done.returncode < 0:
        raise UnsoundProgram(f"the program ends its process with signal {-done.returncode}")
    lines = done.stderr.decode("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it failed")
    raise UnsoundProgram(f"the program does not run: {last[:MAX_STDERR_CHARACTERS]}")


def try_stranger(data: bytes) -> None:
    """As `try_program`, unless the program came with this installation.

    Raises:
        UnsoundProgram: If it does not survive.
    """
    from headwater_models.program import is_shipped  # noqa: PLC0415

    if not is_shipped(data):
        try_program(data)


def main() -> int:
    """Run the program on standard input once, on zeros."""
    from headwater_models.plan import TrainingPlan  # noqa: PLC0415
    from headwater_models.program import Program  # noqa: PLC0415
    from headwater_models.trainer import Trainer  # noqa: PLC0415
    from headwater_protocol.errors import HeadwaterError  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        program = Program(sys.stdin.buffer.read())
        Trainer(program).train(
            np.zeros(program.num_parameters, dtype=np.float32),
            np.zeros((TRIAL_EXAMPLES, *program.input_shape), dtype=np.float32),
            np.zeros(TRIAL_EXAMPLES, dtype=np.int32),
            TrainingPlan(learning_rate_millionths=1, batch_size=TRIAL_EXAMPLES, max_steps=1),
            np.random.default_rng(0),
        )
    except (HeadwaterError, ValueError, RuntimeError, MemoryError) as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
