"""The commented `agent.toml` that `headwater-agent init` writes, and what it says of every key."""

import re
import tomllib
from collections.abc import Mapping
from typing import Final

from headwater_protocol.errors import ConfigError

TEMPLATE: Final = """\
# A Headwater device. Paths are relative to this file. Unknown keys are refused.
# Environment variables win over this file (HEADWATER_AGENT_LIMITS_MAX_OUTBOX_BYTES=65536), and
# --set limits.max_outbox_bytes=65536 wins over both; headwater-agent config show tells which did.

# MQTT brokers, mqtt://host:port or mqtts://host:port (TLS). With several, the device goes to the
# next one when a connection fails.
brokers = [{brokers}]

# The network: its genesis file, and the digest that you were told by somebody you trust. The
# device starts only if the file has this digest; everything it believes follows from it.
genesis = {genesis}
network = {network}

# The shard that the device is enrolled in, and its weight there: how often it is drawn for a
# round, compared with others. It has to be the weight on the ledger.
shard = {shard}
weight = 1

# The secret key. Whoever has it can sign as this device. Keep a copy nowhere else: two processes
# with one key can sign two updates for a round.
key = {key}

# What has to survive a power cut: the signed update, the error-feedback memory, counters.
state = {state}

# What a registrar said, as headwater-agent enroll wrote it; with it the device renews its
# certificate.
# enrolment = "enrolment.json"

[data]
# The device's own examples: a folder of *.csv with the class label last, or an .npz file with the
# arrays "features" and "labels". They never leave this device. Named columns, a SQLite query, a
# sensor's MQTT topic and a Python function do as well: see docs/data-sources.md.
path = {data}
# source = "csv"                     # npz, sqlite, mqtt, python: each has keys of its own, below
# features = ["speed", "current"]    # columns by name; default: all but the label
# label = "state"                    # the label's column; default: the last one
# classes = ["idle", "running"]      # names of the labels, class 0 first
# max_examples = 100000              # kept in memory, a fair sample of all that came
# max_bytes = 67108864               # of them; wins over limits.max_data_bytes
# per_class = false                  # a sample of each class, so that rare ones keep their share
# persist_interval_s = 600           # between writes of what streamed in
#
# With source = "sqlite", in place of path:
## database = "readings.db"
## query = "SELECT * FROM reading"
#
# With source = "mqtt", in place of path and features:
## broker = "mqtt://127.0.0.1:1883"  # the sensor's; its login and authority are its own
## username = "device-1"
## password_file = "sensor.txt"      # its first line
## ca_file = "sensor-ca.pem"
## topic = "machine/1"
## fields = ["speed", "current"]     # of the payload, which then is JSON
## time = "at"                       # a timestamp in it; default: when it arrived
## window = 1                        # rows of one example
## stride = 1                        # rows from one window to the next
## max_gap_s = 60.0                  # between two rows of one window
#
# With source = "python", in place of path, features and label:
## callable = "my_sensor:read"

# [guest]                            # when it may train; the defaults
# hours = []                         # ["22:00-06:00"] at night only; local time
# power = "any"                      # "mains": not on battery
# min_battery_percent = 0            # while on battery
# max_temperature_c = 80.0           # of the processor
# max_load = 0.0                     # one-minute load average for each core; 0 does not look
# stops_when_throttled = true        # a Raspberry Pi that is too hot or has too little voltage
# max_memory_bytes = 0               # of this process, what training needs included; 0 is no limit
# cores = 1                          # that training may use
# pinned_cores = [3]                 # keeps the whole process there; default: on any core
# niceness = 10                      # 0 to 19; the higher, the more it gives way
# look_again_s = 60                  # after a refusal; doubles up to 15 minutes while throttled

# [login]
# username = "device-1"
# password_file = "password.txt"     # its first line

# [tls]                              # for mqtts://
# ca_file = "ca.pem"                 # default: the system's authorities
# cert_file = "device.pem"           # a client certificate, if the broker asks for one
# key_file = "device-tls.key"

# [trust]                            # for a network older than its trust period
# pin_epoch = 12                     # an epoch that somebody you trust vouches for,
# pin_digest = "{pin_digest}"
# pin_time = "2026-01-31T00:00:00Z"  # and when it was in force, by their word

# [limits]                           # the defaults
# max_parameters = 1048576           # of a model that this device trains
# max_program_bytes = 4194304        # of a training program
# max_outbox_bytes = 1048576         # of a signed update
# max_outbox_days = 14               # that one waits to be sent, if its round lasts so long
# max_training_ms = 1800000          # of one training; one that hangs makes systemd start anew
# max_data_bytes = 67108864          # of the examples in memory
# first_resend_ms = 5000             # wait before an update is sent again; doubles
# max_resend_ms = 120000
# first_refetch_ms = 5000            # wait before a blob is asked for again; doubles
# max_refetch_ms = 60000
# resume_jitter_ms = 2000            # random wait after a reconnect
"""

EXAMPLE_DIGEST: Final = "0123456789abcdef" * 4
"""Of no epoch."""


def format_template(
    *, brokers: list[str], genesis: str, network: str, shard: str, key: str, state: str, data: str
) -> str:
    """A commented `agent.toml` with these values."""
    return TEMPLATE.format(
        brokers=", ".join(_quote(broker) for broker in brokers),
        genesis=_quote(genesis),
        network=_quote(network),
        shard=_quote(shard),
        key=_quote(key),
        state=_quote(state),
        data=_quote(data),
        pin_digest=EXAMPLE_DIGEST,
    )


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        raise ConfigError("init", f"{text!r} holds a control character", fix="leave it out")
    return f'"{escaped}"'


def list_keys() -> Mapping[tuple[str, str], object]:
    """Every key of `agent.toml` as (table, key), the root's table being "", with an example.

    The template is the one list of keys, so what people read is what is accepted.
    """
    keys: dict[tuple[str, str], object] = {}
    table = ""
    blank = dict.fromkeys(("brokers", "genesis", "network", "shard", "key", "state"), '"x"')
    text = TEMPLATE.format(**blank, data='"x"', pin_digest=EXAMPLE_DIGEST)
    for line in text.splitlines():
        heading = re.match(r"(?:# )?\[([a-z_.]+)\]", line)
        entry = re.match(r"(?:##? )?([a-z_]+ = .+)", line)
        if heading:
            table = heading[1]
        elif entry:
            for key, value in tomllib.loads(entry[1]).items():
                keys[table, key] = value
    return keys
