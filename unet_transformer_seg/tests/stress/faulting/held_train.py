"""The training command, which stops and waits in one place: `held_train.py PLACE NUMBER MARKER ARGUMENT …`.

PLACE is `data`, before batch NUMBER of this start, or `save`, before checkpoint NUMBER of it is written; both count
from 0. The file MARKER appears when the place is reached.
"""

import sys
import time
from pathlib import Path

HOURS_S = 36_000


def hold_data(number: int, marker: Path) -> None:
    """Let the loader wait for ever, as for a file on a server that is gone."""
    from seg.data.loader import TrainLoader

    iterate = TrainLoader.iterate

    def iterate_held(self, *arguments):
        for place, batch in enumerate(iterate(self, *arguments)):
            if place == number:
                stand_still(marker)
            yield batch

    TrainLoader.iterate = iterate_held


def hold_save(number: int, marker: Path) -> None:
    """Let the disk take no more."""
    from seg.checkpoints import CheckpointStore

    save, calls = CheckpointStore.save, iter(range(1 << 30))

    def save_held(self, *arguments, **named):
        if next(calls) == number:
            stand_still(marker)
        return save(self, *arguments, **named)

    CheckpointStore.save = save_held


def stand_still(marker: Path) -> None:
    """Say that the place is reached, and stay there."""
    marker.touch()
    time.sleep(HOURS_S)


def main() -> None:
    """Prepare the place and train."""
    from seg.cli import run_training_command
    from seg.train import main as train

    place, number, marker = sys.argv[1:4]
    del sys.argv[1:4]
    {"data": hold_data, "save": hold_save}[place](int(number), Path(marker))
    run_training_command(train)


if __name__ == "__main__":
    main()
