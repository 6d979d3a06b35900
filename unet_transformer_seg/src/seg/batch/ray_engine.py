"""Segments shards on Ray Data: each actor owns a model and a device, and writes the parts of its shards itself.

A row is a shard. What goes wrong in a shard returns as a column, so that one shard never ends the job; the parts that
are complete stay, whatever ends it.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seg.batch.segment_shard import Counts
from seg.batch.shards import Shard
from seg.errors import UserError
from seg.inference.segment_files import Options

MAX_RESTARTS = 3
"""Restarts of an actor whose process died, and retries of the shard it was at."""
OBJECT_STORE_BYTES = 100 << 20
"""Memory for rows between processes; the rows here are small."""


class ShardWorker:
    """An actor: a model that segments one shard after the other."""

    def __init__(self, folder: Path, checkpoint: str, overrides: Sequence[str], shards: Any, options: Any):
        """Load the model; `shards` is a reference to the list of all."""
        import ray

        from seg import api

        self.predictor = api.load(folder, checkpoint=checkpoint, overrides=overrides)
        self.shards, self.options = ray.get(shards), options

    def __call__(self, rows: dict[str, Any]) -> dict[str, list]:
        """Segment the shards of some rows; return their counts, and why one failed."""
        from seg.batch.segment_shard import Counts, segment_shard

        results = []
        for place in rows["place"]:
            counts, failure = Counts(), ""
            try:
                counts = segment_shard(self.predictor, self.shards[int(place)], self.options)
            except Exception as error:
                failure = str(error) or repr(error)
            results.append({**vars(counts), "failure": failure})
        return {name: [result[name] for result in results] for name in results[0]}


def run_on_ray(
    folder: Path,
    checkpoint: str,
    overrides: Sequence[str],
    shards: Sequence[Shard],
    options: Options,
    num_workers: int,
) -> Iterator[Counts]:
    """Segment shards with some actors, with Ray's progress bar, and yield the counts of each.

    Raises:
        UserError: at the end, shards that failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    if not shards:
        return
    if not ray.is_initialized():
        own = {} if os.environ.get("RAY_ADDRESS") else {"object_store_memory": OBJECT_STORE_BYTES}
        ray.init(include_dashboard=False, log_to_driver=False, **own)
    rows = ray.data.from_items([{"place": place} for place in range(len(shards))], override_num_blocks=len(shards))
    results = rows.map_batches(
        ShardWorker,
        batch_size=1,
        concurrency=(1, num_workers),
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
        fn_constructor_kwargs={
            "folder": folder.absolute(),
            "checkpoint": checkpoint,
            "overrides": list(overrides),
            "shards": ray.put(list(shards)),
            "options": options,
        },
    )
    failures = []
    for row in results.iter_rows():
        failure = row.pop("failure")
        if failure:
            failures.append(failure)
        yield Counts(**row)
    if failures:
        raise UserError(f"{len(failures)} of {len(shards)} shards failed, the first with: {failures[0]}")
