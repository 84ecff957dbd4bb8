"""Drives an endpoint with the published tritonclient; prints what it got as JSON. Run with .venv/clients alone."""

import base64
import json
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


def drive(kind, url: str, pictures: list[bytes], key: str) -> dict:
    headers = {"authorization": f"Bearer {key}"}
    grpc = kind is tritonclient.grpc
    client = kind.InferenceServerClient(url)
    found: dict = {"live": client.is_server_live(headers=headers), "ready": client.is_server_ready(headers=headers)}
    found["model_ready"] = client.is_model_ready("zoo", "3", headers=headers)
    found["unknown_ready"] = client.is_model_ready("cow", headers=headers)
    as_json = {"as_json": True} if grpc else {}
    found["server"] = client.get_server_metadata(headers=headers, **as_json)["name"]
    metadata = client.get_model_metadata("zoo", headers=headers, **as_json)
    found["tensors"] = [tensor["name"] for tensor in metadata["inputs"] + metadata["outputs"]]

    def infer(values, datatype="BYTES", name="image", model="zoo", version="", outputs=(), **form):
        tensor = kind.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values, **form)
        wanted = [kind.InferRequestedOutput(output, **options) for output, options in outputs] or None
        # The client writes into the headers that it is given.
        own = dict(headers)
        return client.infer(model, [tensor], model_version=version, outputs=wanted, headers=own, request_id="7")

    batch = np.array(pictures, object)
    for label, values in (("single", batch[:1]), ("batch", batch)):
        answer = infer(values)
        found[label] = answer.as_numpy("probabilities").tolist()
        found[f"{label}_labels"] = [text.decode() for text in answer.as_numpy("label")]
    (best, *_) = infer(batch[:1], outputs=[("probabilities", {"class_count": 2})]).as_numpy("probabilities")[0]
    found["classification"] = best.decode().split(":")[2]
    if not grpc:
        plain = [("probabilities", {"binary_data": False})]
        texts = np.array([base64.b64encode(picture).decode() for picture in pictures], object)
        found["json"] = infer(texts, binary_data=False, outputs=plain).as_numpy("probabilities").tolist()

    def refusal(**changes):
        try:
            infer(**{"values": batch[:1], **changes})
        except InferenceServerException as error:
            return [error.status(), error.message()]
        return None

    found["wrong_shape"] = refusal(values=batch.reshape(2, 1))
    found["wrong_dtype"] = refusal(values=np.zeros((1, 2), np.int32), datatype="INT32")
    found["unknown_model"] = refusal(model="cow")
    found["unknown_version"] = refusal(version="4")
    headers.clear()
    found["no_key"] = refusal()
    found["live_without_key"] = client.is_server_live()
    client.close()
    return found


def main() -> None:
    asked = json.load(sys.stdin)
    pictures = [base64.b64decode(picture) for picture in asked["pictures"]]
    kinds = {"http": tritonclient.http, "grpc": tritonclient.grpc}
    print(json.dumps({name: drive(kind, asked[name], pictures, asked["key"]) for name, kind in kinds.items()}))


if __name__ == "__main__":
    main()
