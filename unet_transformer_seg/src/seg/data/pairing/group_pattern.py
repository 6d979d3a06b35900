"""Finds the groups of names by a regular expression, in a process that can be stopped.

Some expressions take longer than the age of the world for a name of thirty letters, and nothing within a process
can interrupt Python's search.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

from seg.errors import UserError
from seg.untrusted import shown

MAX_SECONDS = 30
SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
matches = map(re.compile(pattern).search, names)
json.dump([match and match[1] for match in matches], sys.stdout)
"""


def find_groups(names: Sequence[str], pattern: str) -> list[str]:
    """Return the group of each name; without a pattern each name is its own.

    Args:
        names: paths below the images' folder, without suffix.
        pattern: a regular expression with one group, which is searched anywhere in a name.

    Raises:
        UserError: it does not match each name, or takes too long.
    """
    if not pattern or not names:
        return list(names)
    command = [sys.executable, "-I", "-S", "-c", SEARCH]
    question = json.dumps([pattern, names])
    try:
        answer = subprocess.run(
            command, input=question, capture_output=True, text=True, timeout=MAX_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"data.group_pattern {shown(pattern)}: it took more than {MAX_SECONDS} s for {len(names)} names; write it "
            "without a repeat inside a repeat, such as (a+)+"
        ) from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"data.group_pattern {shown(pattern)}: the search failed ({error})") from None
    groups = json.loads(answer.stdout)
    missing = [name for name, group in zip(names, groups, strict=True) if group is None]
    if missing:
        example = ", ".join(map(shown, missing[:3]))
        raise UserError(
            f"data.group_pattern {shown(pattern)}: it matches {len(names) - len(missing)} of {len(names)} names; "
            f"not, for example, {example}"
        )
    return groups
