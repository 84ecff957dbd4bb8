"""TensorFlow Serving's REST form of a prediction.

Source: TensorFlow Serving, RESTful API: row format, binary values as {"b64": ...}.
"""

from __future__ import annotations

from typing import Any

from rayft.serve.contract import RequestError
from rayft.serve.wire.json_text import parse_object, shown
from rayft.serve.wire.tensors import Pictures, decode_base64, numbers

SIGNATURES = ("serving_default", "predict")
_KEYS = ("instances", "signature_name")
# Names under which an instance may hold its only input.
_INPUTS = ("image", "images", "image_bytes", "encoded", "input")
_FIX = 'Send {"instances": [{"b64": "..."}]}, or decoded pictures as lists of numbers.'


def parse_instances(body: bytes | memoryview) -> Pictures:
    """Return the pictures of a body ``{"instances": [...]}``.

    Returns:
        Encoded pictures, or decoded ones float32 [n, ...] whose shape nobody has checked yet.

    Raises:
        RequestError: 400: what is wrong with it.
    """
    tree = parse_object(body)
    unknown = [key for key in tree if key not in _KEYS]
    if unknown:
        raise RequestError(f"The body has {shown(unknown[0])}; {' and '.join(_KEYS)} are allowed.", _FIX)
    signature = tree.get("signature_name") or SIGNATURES[0]
    if signature not in SIGNATURES:
        raise RequestError(
            f"signature_name is {shown(signature)}; {' and '.join(SIGNATURES)} are allowed.", "Leave it out."
        )
    instances = tree.get("instances")
    if not isinstance(instances, list) or not instances:
        raise RequestError(f"instances is {shown(instances)}; a list of pictures is allowed.", _FIX)
    values = [_unnamed(item, index) for index, item in enumerate(instances)]
    encoded = [isinstance(value, dict) for value in values]
    if all(encoded):
        return [decode_base64(value["b64"], f"instances[{index}].b64") for index, value in enumerate(values)]
    if any(encoded):
        raise RequestError("instances holds both encoded and decoded pictures.", "Send two requests.")
    return numbers(values, "instances")


def _unnamed(item: Any, index: int) -> Any:
    """Return ``{"b64": ...}`` or lists, without the name of the input around it."""
    if isinstance(item, dict) and len(item) == 1:
        (name, value) = next(iter(item.items()))
        if name in _INPUTS:
            item = value
    if isinstance(item, list) or (isinstance(item, dict) and item.keys() == {"b64"}):
        return item
    raise RequestError(f"instances[{index}] is {_described(item)}.", _FIX)


def _described(item: Any) -> str:
    if isinstance(item, dict):
        names = ", ".join(shown(name) for name in list(item)[:3])
        return f"an object with {names or 'nothing'}"
    return shown(item)
