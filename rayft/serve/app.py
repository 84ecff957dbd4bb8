"""The Ray Serve application of an endpoint: replicas, health, scaling.

No request passes through Serve: every replica listens itself, all of them on one port (SO_REUSEPORT). Serve starts
them, looks after them, and ends them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from rayft.config import ServeConfig, check_section
from rayft.serve.bulletin import Bulletin
from rayft.serve.owner import Owner
from rayft.serve.replica import Replica
from rayft.serve.scale import PICTURES

DEPLOYMENT = "Endpoint"
# A first try, and two more against a node that is short of something for a moment.
_TRIES = 3
# Serve's own way through a stop takes a moment besides the drain.
_SLACK_S = 10.0


class Endpoint:
    """One replica, as Ray Serve sees it.

    Args:
        settings: The dumped ServeConfig.
        topic: Of the board where events go; None tells nobody.
        job: Ray job of the command that it belongs to; None for no command.
    """

    async def __init__(  # type: ignore[misc]
        self, settings: dict[str, Any], topic: str | None = None, job: str | None = None
    ) -> None:
        config = ServeConfig.model_validate(settings)
        bulletin = None if topic is None else Bulletin(topic)
        self._replica = Replica(config, _metrics_folder(config), _silent if bulletin is None else bulletin.say)
        self._owner = None if job is None else Owner(job)
        self._stopped = False
        try:
            await self._replica.start()
        except Exception as error:
            if bulletin is not None:
                bulletin.say_error(error)
            raise

    async def check_health(self) -> None:
        """Raise where Serve should start another replica in the place of this one."""
        self._replica.check()
        if self._owner is not None:
            await asyncio.to_thread(self._owner.look)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve how much there is to do."""
        return {PICTURES: float(self._replica.held)}

    async def __call__(self) -> str:
        """Answer handles of Ray Serve; clients come by the port."""
        return "ok"

    def __del__(self) -> Any:
        """Drain and stop; Serve awaits it once, Python's own call finds nothing left to do."""
        if getattr(self, "_stopped", True):
            return None
        self._stopped = True
        return self._replica.stop()


def build(settings: dict[str, Any]) -> serve.Application:
    """Return the application of a ServeConfig; what a Serve config file names as ``import_path``.

    Raises:
        ConfigError: A setting is not allowed.
    """
    topic, job = settings.pop("topic", None), settings.pop("job", None)
    config = check_section(ServeConfig, settings)
    scaling: dict[str, Any] = {"num_replicas": config.replicas}
    if config.autoscale is not None:
        auto = config.autoscale
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=auto.min_replicas,
                initial_replicas=auto.min_replicas,
                max_replicas=auto.max_replicas,
                upscale_delay_s=auto.upscale_delay_s,
                downscale_delay_s=auto.downscale_delay_s,
                metrics_interval_s=1.0,
                look_back_period_s=5.0,
                policy=AutoscalingPolicy(
                    policy_function="rayft.serve.scale:ScaleByPictures",
                    policy_kwargs={"target": auto.target_pictures},
                ),
            )
        }
    deployment = serve.deployment(
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": config.cpus_per_replica or 1.0, "num_gpus": config.gpus_per_replica},
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=config.limits.drain_s + _SLACK_S,
        max_constructor_retry_count=_TRIES,
        logging_config={"log_level": "ERROR", "enable_access_log": False},
        **scaling,
    )(Endpoint)
    return deployment.bind(config.model_dump(mode="json"), topic, job)


def _metrics_folder(config: ServeConfig) -> Path:
    """Return a folder that replicas of one endpoint share on this machine, and that ends with Ray's session."""
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    return session / "rayft-metrics" / f"{config.port}"


def _silent(event: str, **facts: Any) -> None:
    """Tell nobody."""
