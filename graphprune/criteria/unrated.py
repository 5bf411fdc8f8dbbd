"""Groups that a criterion has nothing to say about."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from graphprune.coupling.groups import Group
from graphprune.errors import OptionError

log = logging.getLogger(__name__)


def put_last(
    importance: Tensor, unrated: Sequence[Group], groups: Sequence[Group], criterion: str, why: str, warned: set[str]
) -> None:
    """Ranks groups without a rating behind the others, in place.

    Args:
        importance: Of each channel, shape ``(channels,)``.
        unrated: Groups without a rating.
        groups: All groups.
        criterion: Its name, for messages.
        why: What the groups lack, for messages: "they have no ...".
        warned: What was warned of before; a later round does not repeat it.

    Raises:
        OptionError: no group has a rating.
    """
    if not unrated:
        return
    names = ", ".join(f"{group.id} ({group.name})" for group in unrated[:4]) + (", ..." if len(unrated) > 4 else "")
    if len(unrated) == len(groups):
        raise OptionError(f"criterion {criterion}: it rates none of the {len(groups)} groups ({names}), for {why}")
    last = importance.max() + 1
    for group in unrated:
        importance[group.start : group.stop] = last
    if (key := f"{criterion}: {names}") not in warned:
        warned.add(key)
        log.warning(
            "criterion %s cannot rate %d of %d groups; they go last: %s", criterion, len(unrated), len(groups), names
        )
