"""A store that says it is busy is asked again; one that says anything else is believed."""

import pytest

from rayft.busy import is_busy, persist

# As pyarrow put them, from a server that answered 503, one without the bucket, and none at all.
BUSY = [
    "When reading information for key 'x/a' in bucket 'b': AWS Error UNKNOWN (HTTP status 503) during HeadObject "
    "operation: No response body.",
    "When listing objects under key 'x/' in bucket 'b': AWS Error SLOW_DOWN during ListObjectsV2 operation: Please "
    "reduce your request rate.",
]
OTHER = [
    "When testing for existence of bucket 'b': AWS Error UNKNOWN (HTTP status 404) during HeadBucket operation: No "
    "response body.",
    "When reading information for key 'x/a' in bucket 'b': AWS Error NETWORK_CONNECTION during HeadObject operation: "
    "curlCode: 7, Couldn't connect to server",
    "[Errno 2] Failed to open local file '/data/503'",
]


class Store:
    """Fails some times, then answers."""

    def __init__(self, text, failures):
        self.text, self.failures, self.asked = text, failures, 0

    def __call__(self):
        self.asked += 1
        if self.asked <= self.failures:
            raise OSError(self.text)
        return "answer"


@pytest.mark.parametrize("text", BUSY)
def test_a_busy_store_is_asked_until_it_answers(text):
    store = Store(text, 1)
    assert persist(store) == "answer"
    assert store.asked == 2


@pytest.mark.parametrize("text", BUSY)
def test_patience_has_an_end(text):
    store = Store(text, 9)
    with pytest.raises(OSError, match="AWS Error"):
        persist(store, patience_s=0.6)
    assert store.asked == 2


@pytest.mark.parametrize("text", OTHER)
def test_another_error_is_the_callers_at_once(text):
    store = Store(text, 1)
    assert not is_busy(OSError(text))
    with pytest.raises(OSError):  # noqa: PT011
        persist(store)
    assert store.asked == 1
