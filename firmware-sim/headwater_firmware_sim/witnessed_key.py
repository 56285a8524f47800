"""A key whose signatures the simulation sees made, and so need not check."""

from headwater_firmware_sim.verifier import RememberingVerifier
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import Signature


class WitnessedKey(SecretKey):
    """Signs as its key does, and tells a verifier of each signature.

    What an honest holder signed with Ed25519 verifies, so the answer is the one that a check would
    have given; whatever was not signed in this process, a forgery or a changed byte, is checked.
    """

    __slots__ = ("_verifier",)

    def __init__(self, key: SecretKey, verifier: RememberingVerifier) -> None:
        super().__init__(key.seed)
        self._public_key = key.public_key
        self._verifier = verifier

    def sign(self, message: bytes) -> Signature:
        """The signature over `message`; deterministic, as RFC 8032 has it."""
        signature = super().sign(message)
        self._verifier.remember(self.public_key, message, signature)
        return signature
