"""What a live probe asks of a function: starts from zero, requests alone, requests in company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pilotlight.replay.arms import ReplayArm, spec_of_floor
from pilotlight.replay.sender import Planned

_PROMPTS: Final = (16, 64, 128)
_OUTPUTS: Final = (4, 16, 32)


def probe_arms(*, starts: int, warm: int, company: int) -> tuple[ReplayArm, ...]:
    """The arms of a probe.

    Args:
        starts: from zero, one request each.
        warm: requests one after another, of different lengths.
        company: after them, as many again with so many on their way at once; 1: none.
    """
    hot = spec_of_floor(1)
    arms = [ReplayArm(f"start {number + 1}", None, [Planned(0, 0.0, 16, 4)], 1) for number in range(starts)]
    arms.append(ReplayArm("alone", hot, _requests(warm), 1))
    if company > 1:
        arms.append(ReplayArm("in company", hot, _requests(warm), company))
    return tuple(arms)


def _requests(count: int) -> Sequence[Planned]:
    """Prompts and answers of different lengths, every length with every other."""
    return [
        Planned(index, 0.0, _PROMPTS[index % len(_PROMPTS)], _OUTPUTS[index // len(_PROMPTS) % len(_OUTPUTS)])
        for index in range(count)
    ]
