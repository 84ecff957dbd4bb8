"""Train the 784-128-10 network on handwritten digits, with a loss and a step of one's own."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

import rayft

DATA = Path("runs/data/digits.parquet")


def write_digits(path: Path) -> None:
    """Write scikit-learn's 1,797 digits as PNGs of 28x28 pixels."""
    digits = load_digits()
    pictures = []
    for image in digits.images:
        buffer = io.BytesIO()
        # The pixels are 8x8 with values from 0 to 16.
        Image.fromarray((image * 255 / 16).astype("uint8")).resize((28, 28), Image.Resampling.BICUBIC).save(
            buffer, "PNG"
        )
        pictures.append(buffer.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pictures, "label": digits.target}), path)


def main() -> None:
    """Write the data once, train, print the accuracy."""
    if not DATA.exists():
        write_digits(DATA)
    result = rayft.train(rayft.load_config("examples/digits/config.yaml"))
    print(f"test accuracy {result['final']['test_accuracy']:.3f}, package {result['package']}")


if __name__ == "__main__":
    main()
