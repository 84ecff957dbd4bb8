"""The Keras optimizer that a config names."""

from __future__ import annotations

import keras

from rayft.config import OptimConfig
from rayft.errors import ConfigError
from rayft.imports import load_object

# Their update of an element depends on that element's own history alone, so that one update of the
# concatenation equals the updates of the parts, at a fraction of the operations.
ELEMENTWISE = {
    optimizer.__name__.lower(): optimizer
    for optimizer in (
        keras.optimizers.SGD,
        keras.optimizers.RMSprop,
        keras.optimizers.Adam,
        keras.optimizers.AdamW,
        keras.optimizers.Adadelta,
        keras.optimizers.Adagrad,
        keras.optimizers.Adamax,
        keras.optimizers.Nadam,
        keras.optimizers.Ftrl,
        keras.optimizers.Lion,
    )
}
PER_VARIABLE = {
    optimizer.__name__.lower(): optimizer
    for optimizer in (keras.optimizers.Adafactor, keras.optimizers.Lamb, keras.optimizers.Muon)
}
OWN_FIELDS = {
    "learning_rate": "optim.learning_rate",
    "weight_decay": "optim.weight_decay",
    "global_clipnorm": "optim.clip_norm",
}
UNSUPPORTED = (
    "clipnorm",
    "clipvalue",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "name",
)


def get_optimizer(config: OptimConfig) -> keras.optimizers.Optimizer:
    """Build the Keras optimizer that the config names.

    Raises:
        ConfigError: Unknown name or option, or an option that has a field of its own.
    """
    for option in config.options:
        if option in OWN_FIELDS:
            raise ConfigError(f"optim.options has {option!r}, which has its own field.", f"Use {OWN_FIELDS[option]}.")
        if option in UNSUPPORTED:
            raise ConfigError(f"optim.options has {option!r}, which the loop does not apply.", "Remove it.")
    known = {**ELEMENTWISE, **PER_VARIABLE}
    if ":" in config.name:
        factory = load_object(config.name, purpose="optim.name")
    elif config.name.lower() in known:
        factory = known[config.name.lower()]
    else:
        raise ConfigError(
            f"optim.name is {config.name!r}; {', '.join(sorted(known))} or module:function is allowed.",
            "Choose one of these.",
        )
    try:
        optimizer = factory(learning_rate=config.learning_rate, **config.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optim.options {config.options} does not suit {config.name}: {error}", "See the optimizer's arguments."
        ) from None
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ConfigError(
            f"optim.name {config.name!r} gave {type(optimizer).__name__}, not a Keras optimizer.", "Return one."
        )
    # Decay is applied here for all optimizers alike; AdamW and Lamb bring a default of their own.
    optimizer.weight_decay = None
    if isinstance(optimizer, keras.optimizers.Muon):
        optimizer.adam_weight_decay = None
    return optimizer
