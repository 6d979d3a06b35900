"""Transcribes shards on Ray Data: each actor owns a model and a device, and writes the parts of its shards itself.

A row is a shard. What goes wrong in a shard returns as a column, so that one shard never ends the job; the parts that
are complete stay, whatever ends it.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from asr.batch.model_parts import ModelParts
from asr.batch.shards import Shard
from asr.batch.transcribe_shard import Counts
from asr.errors import UserError
from asr.inference.hotwords import Hotword

MAX_RESTARTS = 3
"""Restarts of an actor whose process died, and retries of the shard it was at."""
OBJECT_STORE_BYTES = 100 << 20
"""Memory for rows between processes; the rows here are small."""


class ShardWorker:
    """An actor: a model that transcribes one shard after the other."""

    def __init__(self, parts: ModelParts, hotwords: tuple[Hotword, ...], shards: Any):
        """Load the model; `shards` is a reference to the list of all."""
        import ray

        self.transcriber, self.hotwords = parts.load(), hotwords
        self.shards = ray.get(shards)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list]:
        """Transcribe the shards of some rows; return their counts, and why one failed."""
        from asr.batch.transcribe_shard import Counts, transcribe_shard

        results = []
        for place in rows["place"]:
            counts, failure = Counts(), ""
            try:
                counts = transcribe_shard(self.transcriber, self.shards[int(place)], hotwords=self.hotwords)
            except Exception as error:
                failure = str(error) or repr(error)
            results.append({**vars(counts), "failure": failure})
        return {name: [result[name] for result in results] for name in results[0]}


def run_on_ray(
    parts: ModelParts, hotwords: tuple[Hotword, ...], shards: Sequence[Shard], num_workers: int
) -> Iterator[Counts]:
    """Transcribe shards with some actors, with Ray's progress bar, and yield the counts of each.

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
        fn_constructor_kwargs={"parts": parts.absolute(), "hotwords": hotwords, "shards": ray.put(list(shards))},
    )
    failures = []
    for row in results.iter_rows():
        failure = row.pop("failure")
        if failure:
            failures.append(failure)
        yield Counts(**row)
    if failures:
        raise UserError(f"{len(failures)} of {len(shards)} shards failed, the first with: {failures[0]}")
