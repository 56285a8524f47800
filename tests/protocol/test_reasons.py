import pytest

from headwater_protocol import errors
from headwater_protocol.errors import (
    ConfigError,
    HeadwaterError,
    InsufficientPower,
    InvalidMessage,
    StorageError,
    TooLarge,
    TransportError,
)
from headwater_protocol.reasons import MEANINGS, ReasonCode
from tests.support.make_reason_codes import PAGE, make_page

# Written out, since a code is part of the wire format: this list only ever grows.
CODES = {
    "ok",
    "bad_signature",
    "not_enrolled",
    "not_in_cohort",
    "stale_round",
    "wrong_base",
    "duplicate",
    "too_large",
    "bad_encoding",
    "out_of_bounds",
    "low_score",
    "budget_spent",
    "quarantined",
    "unavailable",
    "busy",
    "wrong_network",
    "wrong_chain",
    "wrong_nonce",
    "wrong_phase",
    "wrong_epoch",
    "wrong_shard",
    "unknown_account",
    "unknown_task",
    "not_permitted",
    "insufficient_funds",
    "low_power",
    "broken_link",
    "wrong_digest",
    "bad_proof",
}


def test_no_code_was_renamed_or_removed():
    assert {code.value for code in ReasonCode} >= CODES


def test_every_code_has_a_meaning_of_its_own():
    assert list(MEANINGS) == list(ReasonCode)
    assert len(set(MEANINGS.values())) == len(MEANINGS)
    for meaning in MEANINGS.values():
        assert meaning[0].isupper()
        assert meaning.endswith(".")


def test_the_documented_table_is_the_one_in_the_code():
    assert PAGE.read_text() == make_page()


def test_every_invalid_message_has_a_code():
    classes = [
        entry
        for entry in vars(errors).values()
        if isinstance(entry, type) and issubclass(entry, InvalidMessage)
    ]
    assert len(classes) > 5
    for entry in classes:
        assert entry.reason in MEANINGS
        assert entry.reason is not ReasonCode.OK


def test_errors_are_told_apart_by_who_has_to_act():
    for kind in (TransportError, StorageError, ConfigError):
        assert issubclass(kind, HeadwaterError)
        assert not issubclass(kind, InvalidMessage)


def test_errors_carry_their_operands_and_say_them():
    assert str(TooLarge("blob", size=3, limit=2)) == "blob has 3 bytes, the limit is 2"
    power = InsufficientPower(signed_power=6, total_power=9)
    assert str(power) == "power 6 of 9 signed, quorum is 7"
    assert (power.signed_power, power.total_power) == (6, 9)
    config = ConfigError("shard", "no shard 'x'", fix="choose one of a, b")
    assert str(config) == "shard: no shard 'x'; choose one of a, b"
    assert (config.key, config.problem, config.fix) == (
        "shard",
        "no shard 'x'",
        "choose one of a, b",
    )


def test_a_code_is_its_text():
    assert f"{ReasonCode.STALE_ROUND}" == "stale_round"
    with pytest.raises(ValueError, match="no_such_code"):
        ReasonCode("no_such_code")
