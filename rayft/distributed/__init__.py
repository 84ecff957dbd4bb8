"""What needs Ray: workers, their monitor, runs and proofs."""

import os

# Ray reads these when it is first imported, which the modules of this package do.
RAY_SETTINGS = {
    # Every local process could otherwise run code in the cluster.
    "RAY_AUTH_MODE": "token",
    # Its makers are told nothing of a run.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Failures are noticed and workers replaced within seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    # One process less at every start; checkpoints do not wait for a warning.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray Tune's thread outlives an interrupted sweep for a moment; it must not start another Ray.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Relative paths in a config mean the same in every process.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in RAY_SETTINGS.items():
    os.environ.setdefault(_name, _value)
