"""What all command lines share: how a mistake is answered."""

import sys
from collections.abc import Callable

from asr.errors import EXIT_INTERRUPTED, EXIT_NON_FINITE, EXIT_OK, EXIT_USER_ERROR, NonFiniteError, UserError


def run_command(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code; a mistake is printed as one message, without a traceback."""
    try:
        sys.exit(main() or EXIT_OK)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_NON_FINITE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
