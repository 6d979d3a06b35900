"""The service on Ray Serve: replicas of the same application, each of which owns a device and batches its requests.

    serve run deploy/ray_serve.yaml

Ray's proxy passes requests and websockets on, and starts a replica anew when its process dies.
"""

from pathlib import Path
from typing import Any

from ray import serve


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the application that a config of Ray Serve describes.

    Args:
        arguments: `model`, the folder, and as the options of `asr serve` `punct`, `name`, `aliases`, `language`,
            `api_key_file`, `allow_origins`, `allowed_hosts` and `limits` {name: value}.
    """

    def make_app():
        """Load and compile in the replica, which takes requests when this returns."""
        from asr.serve import app, keys, service, settings

        started = service.Service(
            arguments["model"],
            settings.ServeSettings(**arguments.get("limits", {})),
            name=arguments.get("name", ""),
            aliases=arguments.get("aliases", ()),
            punct=arguments.get("punct"),
        )
        started.start()
        key_file = arguments.get("api_key_file")
        return app.make_app(
            started,
            keys.read_keys(Path(key_file) if key_file else None),
            arguments.get("allow_origins", ()),
            arguments.get("allowed_hosts", ()),
            language=arguments.get("language", ""),
        )

    return serve.deployment(serve.ingress(make_app)(), name="asr").bind()
