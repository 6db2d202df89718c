"""One name for several similar ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

_LONGEST_LIST = 24  # characters between braces


def common_name(names: Sequence[str]) -> str:
    """What names have in common, with their differing parts in braces: `blur-{0,1,2}` for blur-0, blur-1 and blur-2.

    Numbers and words stay whole. Of long lists the first and the last part are shown: `blur-{0,...,11}`.
    """
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        return names[0]
    parts = [re.findall(r"\d+|[^\W\d_]+|.", name, re.DOTALL) for name in names]
    start = _agreeing(parts)
    end = _agreeing([words[start:][::-1] for words in parts])
    differing = ["".join(words[start : len(words) - end]) for words in parts]
    listed = ",".join(differing)
    if len(listed) > _LONGEST_LIST and len(differing) > 2:
        listed = f"{differing[0]},...,{differing[-1]}"
    return "".join(parts[0][:start]) + "{" + listed + "}" + "".join(parts[0][len(parts[0]) - end :])


def _agreeing(parts: Sequence[Sequence[str]]) -> int:
    """The number of first words that all have in common."""
    return len(list(takewhile(lambda words: len(set(words)) == 1, zip(*parts, strict=False))))
