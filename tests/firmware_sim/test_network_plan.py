from pathlib import Path

import numpy as np

from headwater_firmware_sim.attack import Attack, distort
from headwater_firmware_sim.demo.options import DemoOptions
from headwater_firmware_sim.demo.scene import make_scene
from headwater_firmware_sim.verifier import RememberingVerifier
from headwater_firmware_sim.witnessed_key import WitnessedKey
from headwater_protocol.crypto.signing import SecretKey


def test_a_seed_gives_the_same_keys_data_and_attackers():
    options = DemoOptions(out=Path("unused"), devices=12, attackers=3, seed=5)
    first, second = make_scene(options), make_scene(options)
    assert first.plan.devices[0].public_key == second.plan.devices[0].public_key
    assert first.attacks == second.attacks
    assert first.initial_model == second.initial_model
    assert all(
        np.array_equal(one.features, other.features)
        for one, other in zip(first.devices, second.devices, strict=True)
    )


def test_another_seed_gives_other_keys():
    keys = {
        make_scene(DemoOptions(out=Path("unused"), devices=2, attackers=0, seed=seed))
        .plan.devices[0]
        .public_key
        for seed in range(4)
    }
    assert len(keys) == 4


def test_test_data_are_seen_by_nobody():
    scene = make_scene(DemoOptions(out=Path("unused"), devices=10, attackers=0))
    held = {row.tobytes() for row in scene.test.features}
    seen = {row.tobytes() for part in scene.devices for row in part.features}
    seen |= {row.tobytes() for part in scene.validation.values() for row in part.features}
    # A few digits of the set are pixel for pixel the same; a leak would be hundreds.
    assert len(held & seen) < 5


def test_the_asked_number_of_devices_flips_signs():
    scene = make_scene(DemoOptions(out=Path("unused"), devices=20, attackers=7))
    assert sum(attack is Attack.SIGN_FLIP for attack in scene.attacks) == 7
    delta = np.array([1.0, -2.0], np.float32)
    assert distort(Attack.SIGN_FLIP, delta).tolist() == [-1.0, 2.0]
    assert distort(Attack.NONE, delta).tolist() == [1.0, -2.0]


def test_a_remembering_verifier_checks_once_and_never_mixes_answers_up():
    key, other = SecretKey(bytes(32)), SecretKey(bytes([1]) * 32)
    signature = key.sign(b"message")
    verifier = RememberingVerifier()
    for _ in range(3):
        assert verifier.verify(key.public_key, b"message", signature)
        assert not verifier.verify(other.public_key, b"message", signature)
        assert not verifier.verify(key.public_key, b"messagf", signature)
    assert verifier.num_checked == 3


def test_a_signature_that_was_seen_made_is_not_checked_and_a_forged_one_is():
    verifier = RememberingVerifier()
    plain = SecretKey(bytes(32))
    key = WitnessedKey(plain, verifier)
    signature = key.sign(b"message")
    assert signature == plain.sign(b"message")
    assert verifier.verify(key.public_key, b"message", signature)
    assert verifier.num_checked == 0
    assert not verifier.verify(key.public_key, b"messagf", signature)
    assert not verifier.verify(key.public_key, b"message", signature[:-1] + b"\0")
    assert not verifier.verify(SecretKey(bytes([1]) * 32).public_key, b"message", signature)
    assert verifier.num_checked == 3
