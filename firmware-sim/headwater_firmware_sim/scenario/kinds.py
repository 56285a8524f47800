"""The words that a scenario chooses from."""

from enum import StrEnum


class Placement(StrEnum):
    """How many gateway processes there are."""

    SHARD = "shard"
    """One a shard, with all its delegates."""
    DELEGATE = "delegate"
    """One a delegate, so that delegates can crash and be cut off one by one."""


class SourceKind(StrEnum):
    """Where examples come from."""

    DIGITS = "digits"
    """1,797 handwritten digits, 64 values, 10 classes."""
    VIBRATION = "vibration"
    """An unlimited synthetic vibration sensor: each class is a machine's fault, each device has a
    bias of its own. Fits any program."""
    FOLDER = "folder"
    """A folder of `*.csv` (numbers, the class label last) or one `.npz` (`features`, `labels`)."""
    LOADER = "loader"
    """A Python function that gives each device its arrays."""


class PartitionKind(StrEnum):
    """How examples are split over devices."""

    IID = "iid"
    DIRICHLET = "dirichlet"
    """Each device has a mix of classes of its own, drawn from Dirichlet(`alpha`)."""
    USER = "user"
    """By a column that says whose example it is."""
    QUANTITY = "quantity"
    """Sizes drawn from Dirichlet(`alpha`), classes as they come."""


class FaultKind(StrEnum):
    """What may go wrong."""

    REBOOT = "reboot"
    """Devices lose power and boot again from flash; `rate` is boots a device and hour."""
    TORN_WRITE = "torn_write"
    """Power is lost within a write to flash; `rate` is the chance of each write."""
    WATCHDOG = "watchdog"
    """Training hangs until the watchdog resets the device; `rate` is the chance of each run."""
    PARTITION = "partition"
    """Gateways are cut in two halves that do not hear each other."""
    BROKER_LOSS = "broker_loss"
    """The broker is gone, and with it everything that it retained."""
    GATEWAY_CRASH = "gateway_crash"
    """A gateway stops and starts again from disk; `rate` is crashes of each and hour. Live, all
    shards are in one gateway."""
    LOSS = "loss"
    """`rate` of all MQTT messages, and of those between gateways, is lost."""
    REPLAY = "replay"
    """`rate` of all messages comes again, up to a minute later. Live, this kind and the next two
    are of what devices send."""
    DUPLICATE = "duplicate"
    """`rate` of all messages comes twice."""
    REORDER = "reorder"
    """`rate` of all messages is held back, so that later ones overtake it."""
    DISCONNECT = "disconnect"
    """Connections of devices break without a word; `rate` is breaks a device and hour."""


class AttackKind(StrEnum):
    """What hostile devices do."""

    SIGN_FLIP = "sign_flip"
    """Send the negative of their delta."""
    LABEL_FLIP = "label_flip"
    """Train on label `classes - 1 - y` in place of `y`."""
    GAUSSIAN = "gaussian"
    """Send noise of their delta's norm times `scale`."""
    SCALED = "scaled"
    """Send `scale` times their delta."""
    ALIE = "alie"
    """Send the mean of the attackers' deltas less `scale` standard deviations, each coordinate."""
    INNER_PRODUCT = "inner_product"
    """Send minus `scale` times the mean of the attackers' deltas."""
    BACKDOOR = "backdoor"
    """Train on examples with a trigger and the label 0."""
    FREE_RIDER = "free_rider"
    """Do not train; send small noise and claim many examples."""
    SYBIL = "sybil"
    """Many identities of one attacker: all send the same sign-flipped delta."""
    COLLUDERS = "colluders"
    """Behave well until `from_round`, then send the negative mean of their deltas together."""


class ByzantineKind(StrEnum):
    """What lying delegates do."""

    SCORES = "scores"
    """Post the negative of their scores."""
    MODEL = "model"
    """Attest another model."""
    EQUIVOCATE = "equivocate"
    """Sign two votes for one step."""
    SILENT = "silent"
    """Say nothing."""
    ALL = "all"
    """All of the first three."""
