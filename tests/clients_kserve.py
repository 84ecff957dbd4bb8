"""Drives an endpoint with the published kserve client; prints what it got as JSON. Run with .venv/clients alone."""

import asyncio
import base64
import json
import sys

import grpc
import httpx
import kserve
import numpy as np


def request(values, datatype="BYTES", model="zoo", version=None, binary=True):
    tensor = kserve.InferInput("image", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return kserve.InferRequest(model, [tensor], request_id="7", model_version=version)


def as_lists(answer) -> tuple:
    named = {output.name: output.as_numpy() for output in answer.outputs}
    labels = [text.decode() if isinstance(text, bytes) else text for text in named["label"]]
    return named["probabilities"].tolist(), labels


async def drive(infer, batch) -> dict:
    found: dict = {}
    for label, values in (("single", batch[:1]), ("batch", batch)):
        found[label], found[f"{label}_labels"] = as_lists(await infer(request(values)))

    async def refusal(*arguments, **changes):
        try:
            await infer(request(*arguments, **changes))
        except grpc.RpcError as error:
            return [error.code().name, error.details()]
        except httpx.HTTPStatusError as error:
            return [error.response.status_code, str(error)]
        return None

    found["wrong_shape"] = await refusal(batch.reshape(2, 1))
    found["wrong_dtype"] = await refusal(np.zeros((1, 2), np.int32), datatype="INT32")
    found["unknown_model"] = await refusal(batch, model="cow")
    found["unknown_version"] = await refusal(batch, version="4")
    return found


async def over_rest(url: str, pictures: list[bytes], key: str) -> dict:
    headers = {"authorization": f"Bearer {key}"}
    batch = np.array(pictures, object)
    async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:

        async def infer(asked):
            name = asked.model_name
            if asked.model_version:
                # The client has no other way to name one.
                name = f"{name}/versions/{asked.model_version}"
            return await client.infer(url, asked, model_name=name, headers=dict(headers))

        found = await drive(infer, batch)
        found["live"], found["ready"] = await client.is_server_live(url), await client.is_server_ready(url)
        found["model_ready"] = await client.is_model_ready(url, "zoo", headers=headers)
        found["unknown_ready"] = await client.is_model_ready(url, "cow", headers=headers)
        texts = np.array([base64.b64encode(picture).decode() for picture in pictures], object)
        found["json"], _ = as_lists(await infer(request(texts, binary=False)))
    async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1")) as client:
        instances = {"instances": [{"b64": base64.b64encode(picture).decode()} for picture in pictures]}
        rows = (await client.infer(url, instances, model_name="zoo", headers=headers))["predictions"]
        found["v1"] = [row["probabilities"] for row in rows]
        found["v1_ready"] = await client.is_model_ready(url, "zoo", headers=headers)
    return found


async def over_grpc(url: str, pictures: list[bytes], key: str) -> dict:
    metadata = (("authorization", f"Bearer {key}"),)
    async with kserve.InferenceGRPCClient(url) as client:
        found = await drive(lambda asked: client.infer(asked, headers=metadata), np.array(pictures, object))
        found["live"], found["ready"] = await client.is_server_live(), await client.is_server_ready()
        found["model_ready"] = await client.is_model_ready("zoo", headers=metadata)
        found["unknown_ready"] = await client.is_model_ready("cow", headers=metadata)
    return found


async def main() -> None:
    asked = json.load(sys.stdin)
    pictures = [base64.b64decode(picture) for picture in asked["pictures"]]
    http = await over_rest(f"http://{asked['http']}", pictures, asked["key"])
    print(json.dumps({"http": http, "grpc": await over_grpc(asked["grpc"], pictures, asked["key"])}))


if __name__ == "__main__":
    asyncio.run(main())
