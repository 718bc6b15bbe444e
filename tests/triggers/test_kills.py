"""Nothing is lost while dispatcher and function are killed at random.

`PILOTLIGHT_TEST_MESSAGES=10000` sends more than a run of all tests has time for.
"""

import os

from tests.triggers.kills import POISON, survive

MESSAGES = int(os.environ.get("PILOTLIGHT_TEST_MESSAGES", "200"))


async def test_every_message_is_delivered_or_dead_lettered(rig, tmp_path):
    await rig.queues()
    result = await survive(
        rig, tmp_path, messages=MESSAGES, kills=2, seed=7, within_s=max(100, MESSAGES / 20)
    )
    assert result.lost == set()
    assert result.left == 0
    poison = {number for number in result.sent if number % POISON == 0}
    assert set(result.dead) == poison
    assert set(result.dead.values()) == {"rejected: http-422"}
    assert set(result.delivered) == result.sent - poison
    assert all(len(keys) == 1 for keys in result.keys.values()), "duplicates carry the same key"
    assert result.duplicates < MESSAGES / 3, "they are counted, and rare"
