"""Simulated devices, networks and attackers, driven by the device's own code; the demo.

For notebooks and scripts:

```python
import headwater_firmware_sim as hs

run = hs.run("scenario.toml", changes={"task.bits": 4})
pandas.DataFrame(run.rounds)
```

The import is light: what runs is loaded when it is asked for.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater_firmware_sim.notebook import Run, load, run

__all__ = ["Run", "load", "run"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.notebook"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
