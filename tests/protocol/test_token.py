"""Tokens: what is given out is read back, and nothing else is."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.errors import BadEncoding
from headwater_protocol.identifiers import Network
from headwater_protocol.messages.token import (
    ABBREVIATED_BYTES,
    MAX_TOKEN_CHARACTERS,
    PREFIX,
    TokenId,
    TokenSecret,
    format_token,
    parse_token,
    token_digest,
)

NETWORK, FINGERPRINT = Network(bytes(range(32))), bytes(range(32, 64))
TOKEN, SECRET = TokenId(b"id-id-"), TokenSecret(b"sixteen secrets!")
TEXT = format_token(network=NETWORK, fingerprint=FINGERPRINT, token=TOKEN, secret=SECRET)
ALPHABET = string.ascii_lowercase + "234567"


@given(
    network=st.binary(min_size=32, max_size=32),
    fingerprint=st.binary(min_size=32, max_size=32),
    token=st.binary(min_size=6, max_size=6),
    secret=st.binary(min_size=16, max_size=16),
)
def test_a_token_is_read_back(network, fingerprint, token, secret):
    text = format_token(network=network, fingerprint=fingerprint, token=token, secret=secret)
    for written in (text, text.upper()):
        parsed = parse_token(written)
        assert (parsed.token, parsed.secret) == (token, secret)
        assert parsed.names_network(network)
        assert parsed.names_authority(fingerprint)
        assert secret.hex() not in repr(parsed)


@given(place=st.integers(0, len(TEXT) - len(PREFIX) - 1), letter=st.sampled_from(ALPHABET))
def test_a_wrong_character_is_noticed(place, letter):
    place += len(PREFIX)
    if TEXT[place] != letter:
        with pytest.raises(BadEncoding):
            parse_token(TEXT[:place] + letter + TEXT[place + 1 :])


@given(count=st.integers(1, len(TEXT)))
def test_a_token_that_was_cut_short_is_noticed(count):
    with pytest.raises(BadEncoding):
        parse_token(TEXT[:-count])


@given(text=st.text(max_size=2 * MAX_TOKEN_CHARACTERS))
def test_any_other_text_is_refused(text):
    for candidate in (text, PREFIX + text):
        with pytest.raises(BadEncoding):
            parse_token(candidate)


def test_a_token_names_one_network_and_one_authority():
    parsed = parse_token(TEXT)
    for index in range(ABBREVIATED_BYTES):
        other = bytearray(NETWORK)
        other[index] ^= 1
        assert not parsed.names_network(Network(bytes(other)))
    assert not parsed.names_authority(NETWORK)


def test_a_digest_tells_salts_and_secrets_apart():
    digests = {
        token_digest(salt, TokenSecret(secret))
        for salt in (bytes(16), bytes(15) + b"\1")
        for secret in (bytes(16), bytes(15) + b"\1")
    }
    assert len(digests) == 4
