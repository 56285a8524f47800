"""Ask a gateway for its /status: `healthcheck.py FOLDER`; exit code 0 says that it answers.

Needs nothing but Python: it reads port and authority out of the folder's gateway.toml.
"""

import json
import ssl
import sys
import tomllib
import urllib.request
from pathlib import Path

TIMEOUT_S = 5.0


def main(folder: Path) -> int:
    """Print the heights, or what is wrong."""
    web = tomllib.loads((folder / "gateway.toml").read_text(encoding="utf-8"))["web"]
    host = "localhost" if web["host"] in {"0.0.0.0", "::"} else web["host"]  # noqa: S104
    context = ssl.create_default_context(cafile=str(folder / web["tls_authority"]))
    try:
        with urllib.request.urlopen(
            f"https://{host}:{web['port']}/status", timeout=TIMEOUT_S, context=context
        ) as answer:
            status = json.load(answer)
    except OSError as error:
        sys.stderr.write(f"no answer: {error}\n")
        return 1
    heights = {name: shard["height"] for name, shard in status["shards"].items()}
    heights["main"] = status["main"]["height"]
    sys.stdout.write(json.dumps({"heights": heights, "brokers": status["brokers"]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
