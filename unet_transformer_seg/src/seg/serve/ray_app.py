"""The service on Ray Serve: replicas of the same application, each of which owns a device and batches its requests.

    serve run deploy/ray_serve.yaml

Ray's proxy passes requests on, and starts a replica anew when its process dies.
"""

from pathlib import Path
from typing import Any

from ray import serve


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the application that a config of Ray Serve describes.

    Args:
        arguments: `model`, the folder; `name`; `api_key_file`; `allowed_hosts`; `limits`, {field of `ServeSettings`:
            value}; `settings`, changes of the model's config as `key=value`.
    """

    def make_app():
        """Load and compile in the replica, which takes requests when this returns."""
        from seg.serve import app, keys, service, settings

        started = service.load_service(
            Path(arguments["model"]),
            settings.ServeSettings(**arguments.get("limits", {})),
            name=arguments.get("name", ""),
            overrides=arguments.get("settings", ()),
        )
        started.start()
        key_file = arguments.get("api_key_file")
        own_keys = keys.read_keys(Path(key_file) if key_file else None)
        return app.make_app(started, own_keys, arguments.get("allowed_hosts", ()))

    return serve.deployment(serve.ingress(make_app)(), name="seg").bind()
